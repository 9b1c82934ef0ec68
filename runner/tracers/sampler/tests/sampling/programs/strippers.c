/* Burns in three libraries, of which the names were taken out. */
#include <stdlib.h>

void plain_exported(long parts);
void mini_exported(long parts);
void apart_exported(long parts);

int main(int argc, char **argv) {
    for (long i = 0; i < atol(argv[1]); i++) {
        plain_exported(1);
        mini_exported(1);
        apart_exported(1);
    }
    return 0;
}
