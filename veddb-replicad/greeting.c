/* veddb-replicad/greeting.c — see greeting.h. */
#include "veddb-replicad/greeting.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool repl_address_parse(const char *address, char *host, size_t host_size, uint16_t *ret_port)
{
    const char *colon = strrchr(address, ':');
    if (colon == NULL || colon == address)
        return false;
    const char *from = address;
    size_t len = (size_t)(colon - address);
    if (from[0] == '[') {
        if (len < 3 || from[len - 1] != ']')
            return false;
        from++, len -= 2;
    } else if (memchr(from, ':', len) != NULL) {
        return false; /* an IPv6 address without brackets */
    }
    char *end = NULL;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port == 0 || port > 65535 ||
        len + 1 > host_size)
        return false;
    memcpy(host, from, len);
    host[len] = '\0';
    *ret_port = (uint16_t)port;
    return true;
}

static void copy_text(char *out, size_t size, vd_slice_t text)
{
    (void)snprintf(out, size, "%.*s", VD_SLICE_FMT(text));
}

static bool may_be_logged(vd_slice_t name)
{
    for (size_t i = 0; i < name.len; i++)
        if (name.data[i] <= ' ' || name.data[i] == '"' || name.data[i] == 0x7f)
            return false;
    return true;
}

int repl_greeting_read(const vdp_peer_hello_t *hello, repl_greeting_t *ret_greeting,
                       char ret_host[VDP_PEER_ADDRESS_MAX + 1], vd_error_t *err)
{
    repl_greeting_t *greeting = ret_greeting;
    uint16_t port;
    bool named = may_be_logged(hello->node);
    copy_text(greeting->node, sizeof greeting->node, named ? hello->node : VD_SLICE_NULL);
    copy_text(greeting->set, sizeof greeting->set, hello->set);
    copy_text(greeting->peer, sizeof greeting->peer, hello->peer);
    copy_text(greeting->host, sizeof greeting->host, hello->host);
    greeting->has_set_id = hello->set_id.len == 12;
    if (greeting->has_set_id)
        memcpy(greeting->set_id, hello->set_id.data, 12);
    greeting->config_version = hello->config_version;
    greeting->config_term = hello->config_term;
    if (hello->protocol != VDP_PEER_PROTOCOL)
        return vd_error_set(err, VD_ERR_PROTOCOL, "it speaks protocol %u, we speak %d",
                            hello->protocol, VDP_PEER_PROTOCOL);
    if (!named)
        return vd_error_set(err, VD_ERR_PROTOCOL, "its name has blanks or quotes in it");
    if (hello->node.len == 0 ||
        !repl_address_parse(greeting->peer, ret_host, VDP_PEER_ADDRESS_MAX + 1, &port))
        return vd_error_set(err, VD_ERR_PROTOCOL, "it has no name or no address of its own");
    return VD_OK;
}
