// Burns processor time in three functions of C++: 70, 20 and 10 of 100
// parts: a virtual method of a template, a functor, and a lambda.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

static volatile uint64_t sink;

#define ALONE __attribute__((noinline, noclone))

namespace app {

// How much each does at a time.
constexpr uint64_t step = 1777;

static inline __attribute__((always_inline)) uint64_t burn() {
    uint64_t x = 88172645463325252ULL;
    for (uint64_t i = 0; i < step; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

struct Work {
    virtual ~Work() = default;
    virtual void run(int by) = 0;
};

template <typename Number> struct Furnace final : Work {
    ALONE void run(int by) override { sink += Number(burn()) + by; }
};

namespace {
struct Functor {
    ALONE void operator()(int by) const { sink += burn() - by; }
};
}

template <typename Callable> ALONE void call(const Callable &callable) {
    callable(3);
    sink++;
}

ALONE void by_lambda(int more) {
    auto lambda = [more](int by) ALONE { sink += burn() ^ (by + more); };
    lambda(4);
    sink++;
}

}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 10;
    // The compiler must not know which of the two it is.
    std::unique_ptr<app::Work> work;
    if (argc > 9) {
        work = std::make_unique<app::Furnace<int>>();
    } else {
        work = std::make_unique<app::Furnace<long>>();
    }
    // Each part goes on for some samples, so that a short job is enough, and
    // no two rounds are equally long, so as not to keep step with them.
    uint64_t lot = 1;
    for (long i = 0; i < rounds; i++) {
        lot = lot * 6364136223846793005ULL + 1442695040888963407ULL;
        int unit = 300 + (lot >> 33) % 600;
        for (int k = 0; k < 7 * unit; k++) {
            work->run(k);
        }
        for (int k = 0; k < 2 * unit; k++) {
            app::call(app::Functor());
        }
        for (int k = 0; k < unit; k++) {
            app::by_lambda(k);
        }
    }
    printf("%llu\n", (unsigned long long)sink);
    return 0;
}
