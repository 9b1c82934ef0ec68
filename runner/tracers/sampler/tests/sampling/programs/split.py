# Burns processor time in three functions: 70, 20 and 10 of 100 parts. Says
# at its end how many rounds were run. With "fork", a child does it.
import os
import sys


def burn(parts):
    x = 88172645463325252
    for _ in range(parts):
        x ^= (x << 13) & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 7
        x ^= (x << 17) & 0xFFFFFFFFFFFFFFFF
    return x


def seventy(unit):
    return burn(7 * unit)


def twenty(unit):
    return burn(2 * unit)


class Work:
    def ten(self, unit):
        return burn(unit)


def rounds(count):
    work = Work()
    lot = 1
    total = 0
    for _ in range(count):
        # No two rounds are equally long, so as not to keep step with the
        # samples.
        lot = (lot * 1103515245 + 12345) % 2147483648
        unit = 2000 + (lot >> 8) % 4000
        total ^= seventy(unit) ^ twenty(unit) ^ work.ten(unit)
    return total


def main():
    count = int(sys.argv[1])
    if sys.argv[2:] == ["fork"]:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            sys.exit(os.waitstatus_to_exitcode(status))
    rounds(count)


main()
