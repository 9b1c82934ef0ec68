/* A library with a function that it exports and one that it does not; built
 * several times, each under a name of its own. */
#include <stdint.h>

#define JOIN(a, b) a##_##b
#define NAME(a, b) JOIN(a, b)

static volatile uint64_t sink;

static __attribute__((noinline, noclone)) void NAME(OWN, hidden)(long parts) {
    uint64_t x = 88172645463325252ULL;
    for (long i = 0; i < parts * 100000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    sink += x;
}

void NAME(OWN, exported)(long parts) {
    NAME(OWN, hidden)(parts);
    sink++;
}
