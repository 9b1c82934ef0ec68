/* Burns a little processor time, and ends. */
#include <stdint.h>
#include <stdlib.h>

static volatile uint64_t sink;

__attribute__((noinline)) static void blip(uint64_t n) {
    uint64_t x = 88172645463325252ULL;
    for (uint64_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    sink += x;
}

int main(int argc, char **argv) {
    blip((argc > 1 ? atol(argv[1]) : 1) * 100000ULL);
    return 0;
}
