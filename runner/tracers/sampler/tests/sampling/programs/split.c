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

#define STEP 1777ULL
__attribute__((noinline, noclone)) void seventy(int n) { burn(7 * STEP * n); sink++; }
__attribute__((noinline, noclone)) void twenty(int n) { burn(2 * STEP * n); sink += 2; }
__attribute__((noinline, noclone)) void ten(int n) { burn(STEP * n); sink += 3; }

__attribute__((noinline, noclone)) void stage_a(int n) { seventy(n); sink++; }
__attribute__((noinline, noclone)) void stage_b(int n) {
    twenty(n);
    ten(n);
    sink++;
}

/* Each part goes on for some samples, so that a short job is enough to tell
 * the shares; and no two rounds are equally long, so as not to keep step with
 * the samples, which would meet the same part each time. */
int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 10;
    uint64_t lot = 1;
    for (long i = 0; i < rounds; i++) {
        lot = lot * 6364136223846793005ULL + 1442695040888963407ULL;
        int unit = 300 + (lot >> 33) % 600;
        stage_a(unit);
        stage_b(unit);
    }
    printf("%llu\n", (unsigned long long)sink);
    return 0;
}
