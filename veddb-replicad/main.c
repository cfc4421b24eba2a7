/* veddb-replicad/main.c — replication between the nodes of a replica set. */
#include "veddb-replicad/replicad.h"

int main(int argc, char **argv)
{
    return vd_daemon_main(&repl_program, argc, argv);
}
