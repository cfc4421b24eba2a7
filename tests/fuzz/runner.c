/* tests/fuzz/runner.c — replays a corpus folder and seeded mutations of it, without libFuzzer.
 *
 * Usage: fuzz_<name> FOLDER ROUNDS [SEED]. The seed is printed first: seed and rounds repeat a run.
 *        Each mutated input is copied into a block of exactly its size, so that AddressSanitizer
 *        sees a read behind the end. */
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#define INPUTS_MAX      4096
#define INPUT_MAX_BYTES 65536

typedef struct {
    uint8_t *data;
    size_t len;
} input_t;

static input_t inputs[INPUTS_MAX];
static size_t inputs_count;

static void read_input(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || inputs_count == INPUTS_MAX) {
        (void)fprintf(stderr, "%s: can't be read, or too many inputs\n", path);
        exit(2);
    }
    input_t *input = &inputs[inputs_count++];
    input->data = vd_xalloc(INPUT_MAX_BYTES);
    input->len = fread(input->data, 1, INPUT_MAX_BYTES, file);
    (void)fclose(file);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_corpus(const char *folder)
{
    struct dirent **names;
    int count = scandir(folder, &names, NULL, by_name);
    if (count < 0) {
        perror(folder);
        exit(2);
    }
    for (int i = 0; i < count; i++) {
        char path[4096];
        if (names[i]->d_name[0] != '.') {
            (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
            read_input(path);
        }
        free(names[i]);
    }
    free(names);
}

static void run(const uint8_t *data, size_t len)
{
    uint8_t *exact = malloc(len == 0 ? 1 : len);
    VD_ASSERT(exact != NULL);
    if (len != 0)
        memcpy(exact, data, len);
    (void)LLVMFuzzerTestOneInput(exact, len); /* always 0 */
    free(exact);
}

static size_t mutate(vd_rand_t *rand, uint8_t *data, size_t len)
{
    static const uint8_t telling[] = {0x00, 0x01, 0x04, 0x05, 0x7F, 0x80, 0xFE, 0xFF};
    for (uint64_t n = 1 + vd_rand_below(rand, 4); n != 0; n--) {
        size_t at = len == 0 ? 0 : (size_t)vd_rand_below(rand, len);
        switch (vd_rand_below(rand, 7)) {
        case 0: /* flip a bit */
            if (len != 0)
                data[at] ^= (uint8_t)(1u << vd_rand_below(rand, 8));
            break;
        case 1: /* a telling byte */
            if (len != 0)
                data[at] = telling[vd_rand_below(rand, sizeof telling)];
            break;
        case 2: /* any byte */
            if (len != 0)
                data[at] = (uint8_t)vd_rand_u64(rand);
            break;
        case 3: /* cut the end */
            len = at;
            break;
        case 4: /* insert a byte */
            if (len < INPUT_MAX_BYTES) {
                memmove(data + at + 1, data + at, len - at);
                data[at] = (uint8_t)vd_rand_u64(rand);
                len++;
            }
            break;
        case 5: /* take a byte out */
            if (len != 0) {
                memmove(data + at, data + at + 1, len - at - 1);
                len--;
            }
            break;
        default: { /* put a piece of another input over it */
            const input_t *other = &inputs[vd_rand_below(rand, inputs_count)];
            size_t from = other->len == 0 ? 0 : (size_t)vd_rand_below(rand, other->len);
            size_t piece = (size_t)vd_rand_below(rand, 16);
            if (piece > other->len - from)
                piece = other->len - from;
            if (piece > INPUT_MAX_BYTES - at)
                piece = INPUT_MAX_BYTES - at;
            memcpy(data + at, other->data + from, piece);
            if (at + piece > len)
                len = at + piece;
            break;
        }
        }
    }
    return len;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        (void)fprintf(stderr, "usage: %s FOLDER ROUNDS [SEED]\n", argv[0]);
        return 2;
    }
    unsigned long rounds = strtoul(argv[2], NULL, 10);
    unsigned long seed = argc > 3 ? strtoul(argv[3], NULL, 10) : 1;
    read_corpus(argv[1]);
    (void)printf("%s: %zu inputs, %lu mutations, seed %lu\n", argv[1], inputs_count, rounds, seed);
    (void)fflush(stdout);
    run(NULL, 0);
    for (size_t i = 0; i < inputs_count; i++)
        run(inputs[i].data, inputs[i].len);
    vd_rand_t rand;
    vd_rand_seed(&rand, seed);
    uint8_t *work = vd_xalloc(INPUT_MAX_BYTES);
    for (unsigned long i = 0; inputs_count != 0 && i < rounds; i++) {
        const input_t *input = &inputs[vd_rand_below(&rand, inputs_count)];
        memcpy(work, input->data, input->len);
        run(work, mutate(&rand, work, input->len));
    }
    vd_free(work);
    for (size_t i = 0; i < inputs_count; i++)
        vd_free(inputs[i].data);
    return 0;
}
