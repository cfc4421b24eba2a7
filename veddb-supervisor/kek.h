/* veddb-supervisor/kek.h — keys.kek_command, run for rotated, which may execute nothing.
 *
 * Duty:    runs the command as rotated's user, with a pipe whose other end rotated gets: the key
 *          goes past us. When it has ended, its exit code follows in the pipe (files.h). It is
 *          killed after SUP_KEK_MS, when it is asked for again, and when we end.
 * Owner:   the system; at most one.
 * Threads: the loop's, which never waits for it. */
#pragma once
#include "veddb-supervisor/system.h"

#define SUP_KEK_MS        30000
#define SUP_KEK_WORDS_MAX 32

/* Whether a program with that letter may ask for it; word: "next" or "present". */
bool sup_kek_may(const vd_config_t *config, char letter, const char *word);
/* The end to read from, which the caller closes; -1 with errno. */
int sup_kek_run(sup_worker_t *worker, bool next);
/* Kills it, if it runs: we end. */
void sup_kek_end(sup_system_t *system);
