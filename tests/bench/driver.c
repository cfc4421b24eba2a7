/* tests/bench/driver.c — the load generator on libmongoc, one thread per client: what an
 * application sees. The driver's own cost is most of it. */
#include "tests/bench/ycsb.h"

#include <mongoc/mongoc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static mongoc_client_pool_t *pool;
static _Atomic int phase; /* 0 warm up, 1 measured, 2 over */

static void note(ycsb_t *ycsb, bool good, const bson_error_t *error)
{
    if (!good && ycsb->errors++ == 0)
        fprintf(stderr, "bench: first error: %s\n", error->message);
}

static void read_documents(ycsb_t *ycsb, mongoc_collection_t *collection, int64_t key, bool scan)
{
    char text[32];
    bson_error_t error;
    const bson_t *doc;
    ycsb_key_text(key, text);
    int32_t limit = scan ? 1 + (int32_t)ycsb_below(ycsb, 100) : 1;
    bson_t *filter = scan ? BCON_NEW("_id", "{", "$gte", BCON_UTF8(text), "}")
                          : BCON_NEW("_id", BCON_UTF8(text));
    bson_t *opts = BCON_NEW("limit", BCON_INT64(limit), "singleBatch", BCON_BOOL(true));
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(collection, filter, opts, NULL);
    while (mongoc_cursor_next(cursor, &doc))
        continue;
    note(ycsb, !mongoc_cursor_error(cursor, &error), &error);
    mongoc_cursor_destroy(cursor);
    bson_destroy(filter);
    bson_destroy(opts);
}

static void look_up(ycsb_t *ycsb, mongoc_collection_t *collection, int64_t key)
{
    bson_error_t error;
    const bson_t *doc;
    bson_t *filter = BCON_NEW("group", BCON_INT32(ycsb_group(key)));
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(collection, filter, NULL, NULL);
    while (mongoc_cursor_next(cursor, &doc))
        continue;
    note(ycsb, !mongoc_cursor_error(cursor, &error), &error);
    mongoc_cursor_destroy(cursor);
    bson_destroy(filter);
}

static void update_document(ycsb_t *ycsb, mongoc_collection_t *collection, int64_t key)
{
    char text[32];
    bson_error_t error;
    bson_t update = BSON_INITIALIZER, set;
    ycsb_key_text(key, text);
    bson_t *filter = BCON_NEW("_id", BCON_UTF8(text));
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    ycsb_change(ycsb, &set);
    bson_append_document_end(&update, &set);
    note(ycsb, mongoc_collection_update_one(collection, filter, &update, NULL, NULL, &error),
         &error);
    bson_destroy(filter);
    bson_destroy(&update);
}

static void insert_document(ycsb_t *ycsb, mongoc_collection_t *collection, int64_t key)
{
    bson_error_t error;
    bson_t doc = BSON_INITIALIZER;
    ycsb_document(ycsb, &doc, key);
    note(ycsb, mongoc_collection_insert_one(collection, &doc, NULL, NULL, &error), &error);
    bson_destroy(&doc);
}

static void load_all(ycsb_t *ycsb, mongoc_collection_t *collection)
{
    bson_error_t error;
    const bson_t *docs[YCSB_LOAD_BATCH];
    for (int64_t key = 0; key < ycsb_options.records; key += YCSB_LOAD_BATCH) {
        size_t count = 0;
        double start = ycsb_now_s();
        for (; count < YCSB_LOAD_BATCH && key + (int64_t)count < ycsb_options.records; count++) {
            bson_t *doc = bson_new();
            ycsb_document(ycsb, doc, key + (int64_t)count);
            docs[count] = doc;
        }
        note(ycsb, mongoc_collection_insert_many(collection, docs, count, NULL, NULL, &error),
             &error);
        for (size_t i = 0; i < count; i++)
            bson_destroy((bson_t *)docs[i]);
        ycsb->operations += count;
        ycsb_observe(ycsb, ycsb_now_s() - start);
    }
}

static void one_operation(ycsb_t *ycsb, mongoc_collection_t *collection)
{
    int64_t key;
    switch (ycsb_next(ycsb, &key)) {
    case YCSB_READ:
        read_documents(ycsb, collection, key, false);
        break;
    case YCSB_SCAN:
        read_documents(ycsb, collection, key, true);
        break;
    case YCSB_LOOKUP:
        look_up(ycsb, collection, key);
        break;
    case YCSB_UPDATE:
        update_document(ycsb, collection, key);
        break;
    case YCSB_INSERT:
        insert_document(ycsb, collection, key);
        break;
    case YCSB_READ_MODIFY_WRITE:
        read_documents(ycsb, collection, key, false);
        update_document(ycsb, collection, key);
        break;
    }
}

static void *client_main(void *context)
{
    ycsb_t *ycsb = context;
    mongoc_client_t *client = mongoc_client_pool_pop(pool);
    mongoc_collection_t *collection = mongoc_client_get_collection(client, "ycsb", "usertable");
    if (ycsb_options.workload[0] == 'l')
        load_all(ycsb, collection);
    while (ycsb_options.workload[0] != 'l' && phase < 2) {
        double start = ycsb_now_s();
        one_operation(ycsb, collection);
        if (phase == 1) {
            ycsb->operations++;
            ycsb_observe(ycsb, ycsb_now_s() - start);
        }
    }
    mongoc_collection_destroy(collection);
    mongoc_client_pool_push(pool, client);
    return NULL;
}

int main(int argc, char **argv)
{
    char uri[1024];
    ycsb_parse(argc, argv, "driver");
    mongoc_init();
    snprintf(uri, sizeof uri,
             "mongodb://%s:%s@%s:%d/?tls=true&tlsCAFile=%s&replicaSet=veddb&maxPoolSize=%d",
             ycsb_options.user, ycsb_options.password, ycsb_options.host, ycsb_options.port,
             ycsb_options.ca, ycsb_options.clients + 1);
    mongoc_uri_t *parsed = mongoc_uri_new(uri);
    if (parsed == NULL || (pool = mongoc_client_pool_new(parsed)) == NULL)
        ycsb_die("the connection string can't be used");
    bool load = ycsb_options.workload[0] == 'l';
    int count = ycsb_options.clients;
    ycsb_t *clients = calloc((size_t)count + 1, sizeof *clients), *total = &clients[count];
    pthread_t *threads = calloc((size_t)count, sizeof *threads);
    if (load)
        ycsb_measure_begin();
    for (int i = 0; i < count; i++) {
        ycsb_init(&clients[i], (uint64_t)i + 1);
        pthread_create(&threads[i], NULL, client_main, &clients[i]);
    }
    if (!load) {
        struct timespec warm = {.tv_sec = (time_t)(ycsb_options.seconds / 5) + 1},
                        time = {.tv_sec = (time_t)ycsb_options.seconds};
        nanosleep(&warm, NULL);
        ycsb_measure_begin();
        phase = 1;
        nanosleep(&time, NULL);
        phase = 2;
    }
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        ycsb_add(total, &clients[i]);
    }
    int exit_code = ycsb_report(total);
    mongoc_client_pool_destroy(pool);
    mongoc_uri_destroy(parsed);
    mongoc_cleanup();
    return exit_code;
}
