/* Burns processor time in three functions: 70, 20 and 10 of 100 parts, each
 * called from main through one more. The argument is how many rounds. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static volatile uint64_t sink;

static inline __attribute__((always_inline)) void burn(uint64_t n) {
    uint64_t x = 88172645463325252ULL;
    for (uint64_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    sink += x;
}

/* A round is much shorter than the time between two samples, and no part
 * of it: samples must not keep step with it. */
#define PART 1777ULL
__attribute__((noinline, noclone)) void seventy(void) { burn(7 * PART); sink++; }
__attribute__((noinline, noclone)) void twenty(void) { burn(2 * PART); sink++; }
__attribute__((noinline, noclone)) void ten(void) { burn(1 * PART); sink++; }

__attribute__((noinline, noclone)) void stage_a(void) { seventy(); sink++; }
__attribute__((noinline, noclone)) void stage_b(void) { twenty(); ten(); sink++; }

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 100;
    for (long i = 0; i < rounds; i++) {
        stage_a();
        stage_b();
    }
    printf("%llu\n", (unsigned long long)sink);
    return 0;
}
