/* veddb-storaged/engine/encryptor.c — between WiredTiger's encryptor interface and stor_keys. */
#include "veddb-storaged/engine/encryptor.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <wiredtiger.h>
#include <wiredtiger_ext.h>

int stor_encryptor_entry(WT_CONNECTION *conn, WT_CONFIG_ARG *config);

static _Atomic(stor_keys_t *) bound_keys;
static pthread_mutex_t error_lock = PTHREAD_MUTEX_INITIALIZER;
static vd_error_t first_error;

void stor_encryptor_bind(stor_keys_t *keys)
{
    VD_ASSERT(keys != NULL);
    atomic_store(&bound_keys, keys);
    (void)stor_encryptor_error_take(NULL); /* what is left from an earlier engine is of no use */
}

void stor_encryptor_unbind(void)
{
    atomic_store(&bound_keys, NULL);
}

bool stor_encryptor_error_take(vd_error_t *ret_err)
{
    pthread_mutex_lock(&error_lock);
    bool any = first_error.code != VD_OK;
    if (any && ret_err != NULL)
        vd_error_copy(&first_error, ret_err);
    vd_error_clear(&first_error);
    pthread_mutex_unlock(&error_lock);
    return any;
}

static int note_error(const vd_error_t *err)
{
    pthread_mutex_lock(&error_lock);
    if (first_error.code == VD_OK)
        vd_error_copy(err, &first_error);
    pthread_mutex_unlock(&error_lock);
    return WT_ERROR;
}

static int encrypt(WT_ENCRYPTOR *encryptor, WT_SESSION *session, uint8_t *src, size_t src_len,
                   uint8_t *dst, size_t dst_len, size_t *result_lenp)
{
    (void)encryptor;
    (void)session;
    vd_error_t err = VD_ERROR_INIT;
    if (dst_len < src_len + STOR_BLOCK_OVERHEAD_BYTES)
        return ENOMEM;
    stor_keys_t *keys = atomic_load_explicit(&bound_keys, memory_order_acquire);
    if (stor_keys_seal(keys, vd_slice(src, src_len), dst, result_lenp, &err) != VD_OK)
        return note_error(&err);
    return 0;
}

static int decrypt(WT_ENCRYPTOR *encryptor, WT_SESSION *session, uint8_t *src, size_t src_len,
                   uint8_t *dst, size_t dst_len, size_t *result_lenp)
{
    (void)encryptor;
    (void)session;
    vd_error_t err = VD_ERROR_INIT;
    if (src_len >= STOR_BLOCK_OVERHEAD_BYTES && dst_len < src_len - STOR_BLOCK_OVERHEAD_BYTES)
        return ENOMEM;
    stor_keys_t *keys = atomic_load_explicit(&bound_keys, memory_order_acquire);
    if (stor_keys_open(keys, vd_slice(src, src_len), dst, result_lenp, &err) != VD_OK)
        return note_error(&err);
    return 0;
}

static int sizing(WT_ENCRYPTOR *encryptor, WT_SESSION *session, size_t *expansion_constantp)
{
    (void)encryptor;
    (void)session;
    *expansion_constantp = STOR_BLOCK_OVERHEAD_BYTES;
    return 0;
}

static WT_ENCRYPTOR veddb_encryptor = {
    .encrypt = encrypt, .decrypt = decrypt, .sizing = sizing, .customize = NULL, .terminate = NULL};

int stor_encryptor_entry(WT_CONNECTION *conn, WT_CONFIG_ARG *config)
{
    (void)config;
    return conn->add_encryptor(conn, "veddb", &veddb_encryptor, NULL);
}
