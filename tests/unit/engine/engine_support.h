/* tests/unit/engine/engine_support.h — a folder, keys and an engine for one test. Functions are
 * static: each test file has its own. Children that are forked use none of Criterion's asserts. */
#pragma once
#include "veddb-storaged/engine/session.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SUPPORT __attribute__((unused)) static

typedef struct {
    char folder[256];
    stor_keys_t *keys;
    stor_engine_t *engine;
    stor_engine_options_t options;
    vd_error_t err;
} place_t;

/* For results that do not matter to the test. */
SUPPORT void either(int rc)
{
    (void)rc;
}

SUPPORT void place_init(place_t *place)
{
    memset(place, 0, sizeof *place);
    (void)snprintf(place->folder, sizeof place->folder, "/tmp/veddb-engine-XXXXXX");
    if (mkdtemp(place->folder) == NULL)
        abort();
    place->options = (stor_engine_options_t){
        .folder = place->folder,
        .cache_bytes = 32 << 20,
        .eviction_threads_max = 2,
        .sessions_max = 32,
        .log_file_max_bytes = 1 << 20,
        .reserve_min_bytes = 1 << 20,
    };
}

/* Keys are wiped in a forked child: each process makes its own. */
SUPPORT void place_keys(place_t *place, uint8_t id, uint8_t key)
{
    uint8_t ids[STOR_KEY_ID_BYTES] = {id}, bytes[STOR_KEY_BYTES] = {key};
    stor_keys_destroy(&place->keys);
    place->keys = stor_keys_create();
    if (stor_keys_put(place->keys, ids, bytes, STOR_KEY_ACTIVE, &place->err) != VD_OK)
        abort();
    place->options.keys = place->keys;
}

SUPPORT int place_open(place_t *place, bool bootstrap)
{
    if (place->keys == NULL)
        place_keys(place, 1, 1);
    vd_error_clear(&place->err);
    place->options.bootstrap = bootstrap;
    return stor_engine_open(&place->options, &place->engine, &place->err);
}

SUPPORT int place_close(place_t *place)
{
    vd_error_clear(&place->err);
    return stor_engine_close(&place->engine, &place->err);
}

SUPPORT int place_unlink(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

SUPPORT void place_done(place_t *place)
{
    if (place->engine != NULL)
        either(stor_engine_close(&place->engine, NULL));
    stor_keys_destroy(&place->keys);
    (void)nftw(place->folder, place_unlink, 16, FTW_DEPTH | FTW_PHYS);
    char undo[300];
    (void)snprintf(undo, sizeof undo, "%s.undo", place->folder);
    (void)nftw(undo, place_unlink, 16, FTW_DEPTH | FTW_PHYS);
}

SUPPORT void place_path(const place_t *place, const char *name, char path[512])
{
    (void)snprintf(path, 512, "%s/%s", place->folder, name);
}

/* Copies the folder's files into another place (a snapshot that tests then damage). */
SUPPORT void place_copy(const place_t *from, place_t *to)
{
    char command[1200];
    place_init(to);
    to->options.cache_bytes = from->options.cache_bytes;
    (void)snprintf(command, sizeof command, "cp -a %s/. %s/", from->folder, to->folder);
    if (system(command) != 0)
        abort();
}

SUPPORT bool place_flip_bit(const place_t *place, const char *name, off_t offset)
{
    char path[512];
    uint8_t byte = 0;
    place_path(place, name, path);
    int fd = open(path, O_RDWR);
    if (fd < 0)
        return false;
    bool ok = pread(fd, &byte, 1, offset) == 1;
    byte ^= 0x10;
    ok = ok && pwrite(fd, &byte, 1, offset) == 1;
    (void)close(fd);
    return ok;
}

SUPPORT off_t place_file_size(const place_t *place, const char *name)
{
    char path[512];
    struct stat st;
    place_path(place, name, path);
    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* One transaction that puts one record. */
SUPPORT int put_one(stor_session_t *session, const char *table, const char *key, const char *value,
                    uint64_t *ret_timestamp, vd_error_t *err)
{
    stor_cursor_t *cursor = NULL;
    int rc = stor_cursor_open(session, table, &cursor, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    uint64_t timestamp = stor_txn_timestamp(session);
    rc = stor_cursor_put(cursor, vd_slice_str(key), vd_slice_str(value), err);
    if (rc != VD_OK) {
        stor_txn_rollback(session);
        return rc;
    }
    if (ret_timestamp != NULL)
        *ret_timestamp = timestamp;
    return stor_txn_commit(session, err);
}

/* Spins until everything up to the timestamp is flushed. */
SUPPORT void wait_durable(stor_engine_t *engine, uint64_t timestamp)
{
    for (int i = 0; i < 60000 && stor_engine_durable(engine) < timestamp; i++)
        usleep(500);
}

/* Runs body in a child; returns its wait status. */
SUPPORT int in_child(int (*body)(void *arg), void *arg)
{
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(body(arg));
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status;
}
