/* A job with a few functions of its own. ROUNDS is what the planted change
 * changes: how often a record is hashed. */
#include <stdio.h>
#include <stdlib.h>

#ifndef ROUNDS
#define ROUNDS 11
#endif

static volatile unsigned long sink;

__attribute__((noinline)) static unsigned long parse_record(unsigned long n) {
    unsigned long hash = n;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < 48; i++) hash = (hash ^ (n >> (i & 31))) * 16777619;
    return hash;
}

__attribute__((noinline)) static unsigned count_primes(unsigned limit) {
    unsigned count = 0;
    for (unsigned i = 3; i < limit; i += 2) {
        unsigned j = 3;
        while (j * j <= i && i % j) j += 2;
        count += j * j > i;
    }
    return count;
}

static int by_hash(const void *a, const void *b) {
    unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;
    return (x > y) - (x < y);
}

__attribute__((noinline)) static void sort_rows(unsigned long *rows, int n) {
    for (int i = 0; i < n; i++) rows[i] = parse_record(i);
    qsort(rows, n, sizeof *rows, by_hash);
}

__attribute__((noinline)) static unsigned fib(unsigned n) {
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

int main(void) {
    int n = 20000;
    unsigned long *rows = malloc(n * sizeof *rows);
    for (int turn = 0; turn < 25; turn++) {
        sink += count_primes(60000);
        sort_rows(rows, n);
        sink += fib(24);
    }
    printf("%lu\n", sink);
    free(rows);
    return 0;
}
