/* veddb-rotated/main.c — the key holder. */
#include "veddb-rotated/rotated.h"

int main(int argc, char **argv)
{
    return vd_daemon_main(&rot_program, argc, argv);
}
