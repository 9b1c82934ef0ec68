// Burns processor time in three methods: 70, 20 and 10 of 100 parts.
public class Split {
    interface Work {
        long run(int unit);
    }

    static long burn(int parts) {
        long x = 88172645463325252L;
        for (int i = 0; i < parts * 1000; i++) {
            x ^= x << 13;
            x ^= x >>> 7;
            x ^= x << 17;
        }
        return x;
    }

    static class Seventy implements Work {
        public long run(int unit) {
            return burn(7 * unit) + 1;
        }
    }

    static class Twenty implements Work {
        public long run(int unit) {
            return burn(2 * unit) + 2;
        }
    }

    static class Ten implements Work {
        public long run(int unit) {
            return burn(unit) + 3;
        }
    }

    // Many kinds of work at one place of call, which the compiler does not
    // inline: an inlined method appears in no stack.
    static final Work[] WORKS = {
        new Seventy(), new Twenty(), new Ten(), unit -> unit, unit -> -unit,
    };

    public static void main(String[] args) {
        int rounds = Integer.parseInt(args[0]);
        long lot = 1;
        long sum = 0;
        // Until all are compiled: the interpreter's frames bear no names.
        for (int i = 0; i < 20_000; i++) {
            for (Work work : WORKS) {
                sum += work.run(i % 2);
            }
        }
        // Each part goes on for some samples, so that a short job is enough.
        for (int i = 0; i < rounds; i++) {
            lot = lot * 6364136223846793005L + 1442695040888963407L;
            int unit = 500 + (int) ((lot >>> 33) % 1000);
            for (Work work : WORKS) {
                sum += work.run(unit);
            }
        }
        System.out.println(sum);
    }
}
