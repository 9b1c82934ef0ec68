/* Gets stuck in the way that the argument says. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t second = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t both;
static volatile unsigned long count;

__attribute__((noinline)) static void take_second(void) {
    pthread_mutex_lock(&second);
    count++;
}

__attribute__((noinline)) static void take_first(void) {
    pthread_mutex_lock(&first);
    count++;
}

static void *other(void *unused) {
    pthread_mutex_lock(&second);
    pthread_barrier_wait(&both);
    take_first();
    return unused;
}

__attribute__((noinline)) static void deadlock(void) {
    pthread_t thread;
    pthread_barrier_init(&both, 0, 2);
    pthread_create(&thread, 0, other, 0);
    pthread_mutex_lock(&first);
    pthread_barrier_wait(&both);
    take_second();
    count++;
}

__attribute__((noinline)) static void asleep_for_ever(void) {
    for (;;) {
        sleep(1000);
        count++;
    }
}

__attribute__((noinline)) static void endless_loop(void) {
    for (;;) {
        count++;
    }
}

int main(int argc, char **argv) {
    printf("stuck\n");
    fflush(stdout);
    if (argc > 1 && !strcmp(argv[1], "deadlock")) {
        deadlock();
    } else if (argc > 1 && !strcmp(argv[1], "sleep")) {
        asleep_for_ever();
    } else {
        endless_loop();
    }
    return count;
}
