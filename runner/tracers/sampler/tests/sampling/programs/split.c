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

/* Which comes next is drawn by lot: a fixed round would keep step with the
 * samples now and then, and they would meet the same part each time. */
#define STEP 1777ULL
__attribute__((noinline, noclone)) void seventy(void) { burn(STEP); sink++; }
__attribute__((noinline, noclone)) void twenty(void) { burn(STEP); sink += 2; }
__attribute__((noinline, noclone)) void ten(void) { burn(STEP); sink += 3; }

__attribute__((noinline, noclone)) void stage_a(void) { seventy(); sink++; }
__attribute__((noinline, noclone)) void stage_b(int last) {
    if (last) {
        ten();
    } else {
        twenty();
    }
    sink++;
}

int main(int argc, char **argv) {
    long steps = 10 * (argc > 1 ? atol(argv[1]) : 100);
    uint64_t lot = 1;
    for (long i = 0; i < steps; i++) {
        lot = lot * 6364136223846793005ULL + 1442695040888963407ULL;
        int drawn = (lot >> 33) % 10;
        if (drawn < 7) {
            stage_a();
        } else {
            stage_b(drawn == 9);
        }
    }
    printf("%llu\n", (unsigned long long)sink);
    return 0;
}
