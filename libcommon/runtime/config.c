/* libcommon/runtime/config.c — see config.h. */
#include "libcommon/runtime/config.h"
#include "libcommon/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <yaml.h>

#define FILE_MAX_BYTES (1024 * 1024)
#define KEY_MAX_BYTES  128
#define DEPTH_MAX      8
#define BLOB_MAGIC     "VDC1"

extern char **environ;

typedef enum {
    FROM_NOWHERE,
    FROM_DEFAULT,
    FROM_FILE,
    FROM_ENVIRONMENT,
    FROM_FLAG,
    FROM_BLOB
} origin_t;

const vd_option_t vd_options[] = {
#define VD_OPTION(name, type, value, min, max, choices, programs, secret, help)                    \
    {name, VD_OPTION_##type, value, min, max, choices, programs, secret, help},
#include "libcommon/runtime/options.def"
#undef VD_OPTION
};
const size_t vd_option_count = VD_COUNT_OF(vd_options);

typedef struct {
    char *text;     /* as given; NULL: this program doesn't have the option */
    int64_t number; /* BOOL, NUMBER, BYTES, DURATION_MS */
    origin_t origin;
} value_t;

struct vd_config {
    value_t values[VD_COUNT_OF(vd_options)];
};

/* ---- values ---- */

typedef struct {
    const char *name;
    int64_t factor;
} unit_t;

static const unit_t byte_units[] = {
    {"", 1},           {"B", 1},           {"KB", 1LL << 10}, {"KiB", 1LL << 10},
    {"MB", 1LL << 20}, {"MiB", 1LL << 20}, {"GB", 1LL << 30}, {"GiB", 1LL << 30},
    {"TB", 1LL << 40}, {"TiB", 1LL << 40},
};
static const unit_t duration_units[] = {
    {"ms", 1}, {"s", 1000}, {"min", 60 * 1000}, {"h", 3600 * 1000}, {"d", 86400 * 1000},
};
static const unit_t no_units[] = {{"", 1}};

static bool parse_number(const char *text, const unit_t *units, size_t unit_count, int64_t *ret)
{
    if (!isdigit((unsigned char)text[0]) && !(text[0] == '-' && isdigit((unsigned char)text[1])))
        return false;
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno != 0)
        return false;
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < unit_count; i++)
        if (strcasecmp(end, units[i].name) == 0)
            return !__builtin_mul_overflow((int64_t)number, units[i].factor, ret);
    return false;
}

static bool parse_bool(const char *text, int64_t *ret)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < VD_COUNT_OF(words); i++)
        if (strcasecmp(text, words[i]) == 0) {
            *ret = (int64_t)(i & 1);
            return true;
        }
    return false;
}

static bool is_choice(const char *text, const char *choices)
{
    size_t len = strlen(text);
    if (len == 0 || strchr(text, '|') != NULL)
        return false;
    for (const char *at = choices; at != NULL; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, text, len) == 0 && (at[len] == '|' || at[len] == 0))
            return true;
    }
    return false;
}

static const char *expected(const vd_option_t *option, char *buf, size_t size)
{
    switch (option->type) {
    case VD_OPTION_BOOL:
        return "true or false";
    case VD_OPTION_NUMBER:
        (void)snprintf(buf, size, "a whole number from %" PRId64 " to %" PRId64, option->min,
                       option->max);
        return buf;
    case VD_OPTION_BYTES:
        (void)snprintf(buf, size, "a size such as 512MB, from %" PRId64 " to %" PRId64 " bytes",
                       option->min, option->max);
        return buf;
    case VD_OPTION_DURATION_MS:
        (void)snprintf(buf, size,
                       "a time with its unit (ms, s, min, h, d), from %" PRId64 "ms to %" PRId64
                       "ms",
                       option->min, option->max);
        return buf;
    case VD_OPTION_CHOICE:
        (void)snprintf(buf, size, "one of %s", option->choices);
        return buf;
    case VD_OPTION_STRING:
    case VD_OPTION_PATH:
        (void)snprintf(buf, size, "%" PRId64 " to %" PRId64 " bytes of text%s", option->min,
                       option->max, option->type == VD_OPTION_PATH ? ", an absolute path" : "");
        return buf;
    }
    VD_UNREACHABLE();
}

static bool is_valid(const vd_option_t *option, const char *text, int64_t *ret_number)
{
    int64_t number = 0;
    bool good = false;
    switch (option->type) {
    case VD_OPTION_BOOL:
        good = parse_bool(text, &number);
        break;
    case VD_OPTION_NUMBER:
        good = parse_number(text, no_units, VD_COUNT_OF(no_units), &number) &&
               number >= option->min && number <= option->max;
        break;
    case VD_OPTION_BYTES:
        good = parse_number(text, byte_units, VD_COUNT_OF(byte_units), &number) &&
               number >= option->min && number <= option->max;
        break;
    case VD_OPTION_DURATION_MS:
        good = parse_number(text, duration_units, VD_COUNT_OF(duration_units), &number) &&
               number >= option->min && number <= option->max;
        break;
    case VD_OPTION_CHOICE:
        good = is_choice(text, option->choices);
        break;
    case VD_OPTION_PATH:
        good = text[0] == '\0' || text[0] == '/';
        __attribute__((fallthrough));
    case VD_OPTION_STRING: {
        int64_t len = (int64_t)strlen(text);
        good =
            (option->type == VD_OPTION_STRING || good) && len >= option->min && len <= option->max;
        for (const char *at = text; *at != '\0'; at++)
            good = good && (unsigned char)*at >= 0x20;
        break;
    }
    }
    *ret_number = number;
    return good;
}

/* where: "veddb.yaml:12", "VEDDB_GATEWAY_PORT", "--gateway.port". */
static int set_value(vd_config_t *config, size_t index, const char *text, origin_t origin,
                     const char *where, vd_error_t *err)
{
    const vd_option_t *option = &vd_options[index];
    char buf[256];
    int64_t number = 0;
    if (!is_valid(option, text, &number))
        return vd_error_set(err, VD_ERR_CONFIG, "%s: %s is %s%s%s, expected %s", where,
                            option->name, option->secret ? "" : "\"",
                            option->secret ? "not valid" : text, option->secret ? "" : "\"",
                            expected(option, buf, sizeof buf));
    value_t *value = &config->values[index];
    vd_free(value->text);
    value->text = vd_xstrdup(text);
    value->number = number;
    value->origin = origin;
    return VD_OK;
}

static bool find_option(vd_slice_t name, size_t *ret_index)
{
    for (size_t i = 0; i < vd_option_count; i++)
        if (vd_slice_is(name, vd_options[i].name)) {
            *ret_index = i;
            return true;
        }
    return false;
}

/* ---- the file ---- */

typedef struct {
    vd_config_t *config;
    const char *file;
    yaml_parser_t parser;
    char prefix[KEY_MAX_BYTES]; /* "gateway." */
    size_t prefix_len[DEPTH_MAX];
    int depth;
} reader_t;

static int file_error(const reader_t *reader, size_t line, vd_error_t *err, const char *what,
                      const char *name)
{
    return vd_error_set(err, VD_ERR_CONFIG, "%s:%zu: %s%s%s", reader->file, line + 1, what,
                        name[0] == '\0' ? "" : " ", name);
}

static int next_event(reader_t *reader, yaml_event_t *event, vd_error_t *err)
{
    if (yaml_parser_parse(&reader->parser, event))
        return VD_OK;
    const char *problem = reader->parser.problem;
    return file_error(reader, reader->parser.problem_mark.line, err,
                      problem == NULL ? "not YAML" : problem, "");
}

static bool is_section(const char *prefix)
{
    for (size_t i = 0; i < vd_option_count; i++)
        if (strncmp(vd_options[i].name, prefix, strlen(prefix)) == 0)
            return true;
    return false;
}

/* key: the full dotted name. */
static int read_scalar(reader_t *reader, const char *key, const yaml_event_t *event,
                       vd_error_t *err)
{
    size_t index, line = event->start_mark.line;
    const char *text = (const char *)event->data.scalar.value;
    char where[512];
    if (!find_option(vd_slice_str(key), &index)) {
        char section[KEY_MAX_BYTES + 1];
        (void)snprintf(section, sizeof section, "%s.", key);
        if (text[0] == '\0' && is_section(section))
            return VD_OK; /* "gateway:" with nothing but comments below */
        return file_error(reader, line, err, "unknown key", key);
    }
    if (strlen(text) != event->data.scalar.length)
        return file_error(reader, line, err, "a NUL byte in the value of", key);
    if (reader->config->values[index].origin == FROM_FILE)
        return file_error(reader, line, err, "a second value for", key);
    (void)snprintf(where, sizeof where, "%s:%zu", reader->file, line + 1);
    return set_value(reader->config, index, text, FROM_FILE, where, err);
}

static int enter_section(reader_t *reader, const char *key, size_t line, vd_error_t *err)
{
    char prefix[KEY_MAX_BYTES + 1];
    (void)snprintf(prefix, sizeof prefix, "%s.", key);
    if (!is_section(prefix) || reader->depth + 1 == DEPTH_MAX)
        return file_error(reader, line, err, "unknown key", key);
    (void)snprintf(reader->prefix, sizeof reader->prefix, "%.*s", KEY_MAX_BYTES - 1, prefix);
    reader->prefix_len[++reader->depth] = strlen(reader->prefix);
    return VD_OK;
}

/* The value behind a key: a scalar, or a mapping that the caller's loop goes on with. */
static int read_pair(reader_t *reader, const yaml_event_t *name, vd_error_t *err)
{
    char key[KEY_MAX_BYTES];
    int len =
        snprintf(key, sizeof key, "%s%s", reader->prefix, (const char *)name->data.scalar.value);
    if (len < 0 || (size_t)len >= sizeof key)
        return file_error(reader, name->start_mark.line, err, "a key that is too long", "");
    yaml_event_t value;
    int rc = next_event(reader, &value, err);
    if (rc != VD_OK)
        return rc;
    size_t line = name->start_mark.line;
    switch (value.type) {
    case YAML_SCALAR_EVENT:
        rc = value.data.scalar.anchor != NULL ? file_error(reader, line, err, "an anchor at", key)
                                              : read_scalar(reader, key, &value, err);
        break;
    case YAML_MAPPING_START_EVENT:
        rc = enter_section(reader, key, line, err);
        break;
    default:
        rc = file_error(reader, line, err, "neither a value nor a section:", key);
    }
    yaml_event_delete(&value);
    return rc;
}

static int read_event(reader_t *reader, const yaml_event_t *event, bool *ret_done, vd_error_t *err)
{
    size_t line = event->start_mark.line;
    switch (event->type) {
    case YAML_STREAM_START_EVENT:
    case YAML_DOCUMENT_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        return VD_OK;
    case YAML_STREAM_END_EVENT:
        *ret_done = true;
        return VD_OK;
    case YAML_MAPPING_START_EVENT:
        if (reader->depth != -1)
            return file_error(reader, line, err, "a second document, or a mapping as a key", "");
        reader->depth = 0;
        reader->prefix_len[0] = 0;
        return VD_OK;
    case YAML_MAPPING_END_EVENT:
        if (reader->depth == 0) {
            reader->depth = DEPTH_MAX; /* nothing may follow */
            return VD_OK;
        }
        reader->prefix[reader->prefix_len[--reader->depth]] = '\0';
        return VD_OK;
    case YAML_SCALAR_EVENT:
        if (reader->depth >= 0 && reader->depth < DEPTH_MAX)
            return read_pair(reader, event, err);
        if (reader->depth == -1 && event->data.scalar.length == 0)
            return VD_OK; /* an empty file, or one of comments alone */
        return file_error(reader, line, err, "not a list of keys", "");
    default:
        return file_error(reader, line, err, "a list or reference has no meaning here", "");
    }
}

static int read_events(reader_t *reader, vd_error_t *err)
{
    bool done = false;
    while (!done) {
        yaml_event_t event;
        int rc = next_event(reader, &event, err);
        if (rc != VD_OK)
            return rc;
        rc = read_event(reader, &event, &done, err);
        yaml_event_delete(&event);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

static int read_file(vd_config_t *config, const char *file, vd_error_t *err)
{
    FILE *stream = fopen(file, "re");
    if (stream == NULL) {
        vd_error_t why = VD_ERROR_INIT;
        (void)vd_error_set_errno(&why, "configuration file %s", file);
        return vd_error_set(err, VD_ERR_CONFIG, "%s", why.message);
    }
    char *text = vd_xalloc(FILE_MAX_BYTES + 1);
    size_t len = fread(text, 1, FILE_MAX_BYTES + 1, stream);
    bool failed = ferror(stream) != 0;
    (void)fclose(stream);
    int rc = VD_OK;
    reader_t reader = {.config = config, .file = file, .depth = -1};
    if (failed || len > FILE_MAX_BYTES) {
        rc = vd_error_set(err, VD_ERR_CONFIG, "%s: %s", file,
                          failed ? "can't be read" : "larger than 1 MiB");
    } else if (!yaml_parser_initialize(&reader.parser)) {
        rc = vd_error_set(err, VD_ERR_NO_MEMORY, "YAML parser");
    } else {
        yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, len);
        rc = read_events(&reader, err);
        yaml_parser_delete(&reader.parser);
    }
    vd_free(text);
    return rc;
}

/* ---- environment and flags ---- */

/* "VEDDB_GATEWAY_PORT" for "gateway.port". */
static void environment_name(const char *name, char *buf, size_t size)
{
    int len = snprintf(buf, size, "VEDDB_%s", name);
    for (int i = 0; i < len && (size_t)i < size; i++)
        buf[i] = buf[i] == '.' ? '_' : (char)toupper((unsigned char)buf[i]);
}

/* What the supervisor tells a worker; not options. */
static bool is_reserved(const char *entry)
{
    static const char *const names[] = {"VEDDB_CONTROL_SOCKET=", "VEDDB_CONFIG_FD=",
                                        "VEDDB_GENERATION=", "VEDDB_PARENT_PID=", "VEDDB_FD_"};
    for (size_t i = 0; i < VD_COUNT_OF(names); i++)
        if (strncmp(entry, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static int read_environment(vd_config_t *config, vd_error_t *err)
{
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        const char *equals = strchr(*entry, '=');
        if (strncmp(*entry, "VEDDB_", 6) != 0 || equals == NULL || is_reserved(*entry))
            continue;
        vd_slice_t given = vd_slice(*entry, (size_t)(equals - *entry));
        size_t index = vd_option_count;
        char name[KEY_MAX_BYTES];
        for (size_t i = 0; i < vd_option_count && index == vd_option_count; i++) {
            environment_name(vd_options[i].name, name, sizeof name);
            if (vd_slice_is(given, name))
                index = i;
        }
        if (index == vd_option_count)
            return vd_error_set(err, VD_ERR_CONFIG, "environment: unknown option %.*s",
                                VD_SLICE_FMT(given));
        int rc = set_value(config, index, equals + 1, FROM_ENVIRONMENT, name, err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

static int read_flags(vd_config_t *config, char *const *argv, int argc, vd_error_t *err)
{
    for (int i = 0; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');
        if (i == 0 && strncmp(argv[i], "--", 2) != 0)
            continue; /* the program's own name */
        if (strncmp(argv[i], "--", 2) != 0 || equals == NULL)
            return vd_error_set(err, VD_ERR_CONFIG, "argument %s: expected --name=value", argv[i]);
        size_t index;
        vd_slice_t given = vd_slice(argv[i] + 2, (size_t)(equals - argv[i] - 2));
        if (!find_option(given, &index))
            return vd_error_set(err, VD_ERR_CONFIG, "unknown option --%.*s", VD_SLICE_FMT(given));
        char where[KEY_MAX_BYTES];
        (void)snprintf(where, sizeof where, "--%s", vd_options[index].name);
        int rc = set_value(config, index, equals + 1, FROM_FLAG, where, err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

/* ---- the whole ---- */

static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0 ||
           strcmp(address, "localhost") == 0;
}

static bool is_set(const vd_config_t *config, const char *name)
{
    return vd_config_string(config, name)[0] != '\0';
}

/* What makes a node unsafe must never meet a network. */
static int check_switches(const vd_config_t *config, const char *listen, vd_error_t *err)
{
    static const char *const switches[] = {"test.faults", "tls.insecure_dev"};
    bool loopback = is_loopback(vd_config_string(config, listen));
    for (size_t i = 0; i < VD_COUNT_OF(switches); i++)
        if (vd_config_bool(config, switches[i]) && !loopback)
            return vd_error_set(err, VD_ERR_CONFIG, "%s is refused unless %s is on loopback",
                                switches[i], listen);
    if (strcmp(vd_config_string(config, "test.syscalls"), "enforce") != 0 && !loopback)
        return vd_error_set(err, VD_ERR_CONFIG, "test.syscalls is refused unless %s is on loopback",
                            listen);
    return VD_OK;
}

static int check_replication(const vd_config_t *config, vd_error_t *err)
{
    static const char *const needed[] = {"replication.certificate_file", "replication.key_file",
                                         "replication.ca_file"};
    bool etcd = strcmp(vd_config_string(config, "replication.failover"), "etcd") == 0;
    const char *listen = vd_config_string(config, "replication.listen");
    if (vd_config_number(config, "replication.port") == 0) {
        const char *without = etcd                                 ? "replication.failover"
                              : is_set(config, "replication.join") ? "replication.join"
                                                                   : NULL;
        return without == NULL
                   ? VD_OK
                   : vd_error_set(err, VD_ERR_CONFIG, "%s needs replication.port", without);
    }
    for (size_t i = 0; i < VD_COUNT_OF(needed); i++)
        if (!is_set(config, needed[i]))
            return vd_error_set(err, VD_ERR_CONFIG, "replication.port needs %s", needed[i]);
    if (etcd && !is_set(config, "replication.etcd_endpoints"))
        return vd_error_set(err, VD_ERR_CONFIG,
                            "replication.failover etcd needs replication.etcd_endpoints");
    if (is_set(config, "replication.etcd_certificate_file") !=
        is_set(config, "replication.etcd_key_file"))
        return vd_error_set(err, VD_ERR_CONFIG,
                            "replication.etcd_certificate_file and replication.etcd_key_file go "
                            "together");
    if ((strcmp(listen, "0.0.0.0") == 0 || strcmp(listen, "::") == 0) &&
        !is_set(config, "replication.address"))
        return vd_error_set(err, VD_ERR_CONFIG,
                            "replication.listen %s is no address that others can reach: set "
                            "replication.address",
                            listen);
    return check_switches(config, "replication.listen", err);
}

static int check_relations(const vd_config_t *config, vd_error_t *err)
{
    int rc = check_switches(config, "gateway.listen", err);
    if (rc != VD_OK)
        return rc;
    if (vd_config_string(config, "test.fault_points")[0] != '\0' &&
        !vd_config_bool(config, "test.faults"))
        return vd_error_set(err, VD_ERR_CONFIG, "test.fault_points needs test.faults");
    if (vd_config_string(config, "keys.kek_file")[0] != '\0' &&
        vd_config_string(config, "keys.kek_command")[0] != '\0')
        return vd_error_set(err, VD_ERR_CONFIG,
                            "keys.kek_file and keys.kek_command exclude each other");
    return check_replication(config, err);
}

int vd_config_load(const char *file, char *const *argv, int argc, vd_config_t **ret_config,
                   vd_error_t *err)
{
    VD_ASSERT(ret_config != NULL && (argc == 0 || argv != NULL));

    vd_config_t *config = vd_xalloc(sizeof *config);
    int rc = VD_OK;
    for (size_t i = 0; i < vd_option_count && rc == VD_OK; i++)
        rc = set_value(config, i, vd_options[i].default_value, FROM_DEFAULT, "default", err);
    VD_ASSERT(rc == VD_OK); /* our own table */
    if (file != NULL)
        rc = read_file(config, file, err);
    if (rc == VD_OK)
        rc = read_environment(config, err);
    if (rc == VD_OK)
        rc = read_flags(config, argv, argc, err);
    if (rc == VD_OK)
        rc = check_relations(config, err);
    if (rc != VD_OK) {
        vd_config_destroy(&config);
        return rc;
    }
    *ret_config = config;
    return VD_OK;
}

void vd_config_destroy(vd_config_t **config_p)
{
    vd_config_t *config = *config_p;
    if (config == NULL)
        return;
    *config_p = NULL;
    for (size_t i = 0; i < vd_option_count; i++)
        if (config->values[i].text != NULL)
            vd_free_secret(config->values[i].text, strlen(config->values[i].text));
    vd_free(config);
}

int vd_config_pack(const vd_config_t *config, char program_letter, vd_buf_t *out, vd_error_t *err)
{
    VD_ASSERT(config != NULL && out != NULL);

    int rc = vd_buf_append(out, BLOB_MAGIC, 4);
    for (size_t i = 0; i < vd_option_count && rc == VD_OK; i++) {
        if (strchr(vd_options[i].programs, program_letter) == NULL ||
            config->values[i].text == NULL)
            continue;
        vd_slice_t parts[] = {vd_slice_str(vd_options[i].name),
                              vd_slice_str(config->values[i].text)};
        for (size_t part = 0; part < 2 && rc == VD_OK; part++) {
            rc = vd_buf_append_u32(out, (uint32_t)parts[part].len);
            if (rc == VD_OK)
                rc = vd_buf_append_slice(out, parts[part]);
        }
    }
    if (rc != VD_OK)
        return vd_error_set(err, rc, "configuration for a worker");
    return VD_OK;
}

static bool take_text(vd_slice_t *blob, vd_slice_t *ret)
{
    if (blob->len < 4)
        return false;
    uint32_t len = vd_get_u32(blob->data);
    if (len > blob->len - 4 || memchr(blob->data + 4, 0, len) != NULL)
        return false;
    *ret = vd_slice(blob->data + 4, len);
    *blob = vd_slice(blob->data + 4 + len, blob->len - 4 - len);
    return true;
}

static int unpack_pair(vd_config_t *config, vd_slice_t *blob, vd_error_t *err)
{
    vd_slice_t name, text;
    size_t index;
    if (!take_text(blob, &name) || !take_text(blob, &text))
        return vd_error_set(err, VD_ERR_CONFIG, "the configuration handed over is malformed");
    if (!find_option(name, &index))
        return vd_error_set(err, VD_ERR_CONFIG, "unknown option in the configuration handed over");
    char *copy = vd_xstrndup(text.data, text.len);
    int rc = set_value(config, index, copy, FROM_BLOB, "supervisor", err);
    vd_free_secret(copy, text.len);
    return rc;
}

int vd_config_unpack(vd_slice_t blob, vd_config_t **ret_config, vd_error_t *err)
{
    VD_ASSERT(ret_config != NULL);

    if (!vd_slice_starts_with(blob, VD_SLICE_LIT(BLOB_MAGIC)))
        return vd_error_set(err, VD_ERR_CONFIG, "the configuration handed over is malformed");
    blob = vd_slice(blob.data + 4, blob.len - 4);
    vd_config_t *config = vd_xalloc(sizeof *config);
    while (blob.len > 0) {
        int rc = unpack_pair(config, &blob, err);
        if (rc != VD_OK) {
            vd_config_destroy(&config);
            return rc;
        }
    }
    *ret_config = config;
    return VD_OK;
}

static const value_t *get(const vd_config_t *config, const char *name, vd_option_type_t *ret_type)
{
    size_t index = 0;
    bool found = find_option(vd_slice_str(name), &index);
    VD_ASSERT(config != NULL && found);
    VD_ASSERT(config->values[index].text != NULL); /* an option that this program isn't given */
    *ret_type = vd_options[index].type;
    return &config->values[index];
}

bool vd_config_bool(const vd_config_t *config, const char *name)
{
    vd_option_type_t type;
    const value_t *value = get(config, name, &type);
    VD_ASSERT(type == VD_OPTION_BOOL);
    return value->number != 0;
}

int64_t vd_config_number(const vd_config_t *config, const char *name)
{
    vd_option_type_t type;
    const value_t *value = get(config, name, &type);
    VD_ASSERT(type == VD_OPTION_NUMBER || type == VD_OPTION_BYTES || type == VD_OPTION_DURATION_MS);
    return value->number;
}

const char *vd_config_string(const vd_config_t *config, const char *name)
{
    vd_option_type_t type;
    const value_t *value = get(config, name, &type);
    VD_ASSERT(type == VD_OPTION_STRING || type == VD_OPTION_PATH || type == VD_OPTION_CHOICE);
    return value->text;
}

/* ---- printing ---- */

static int print_value(const vd_option_t *option, const char *text, vd_buf_t *out)
{
    if (option->secret)
        return vd_buf_printf(out, "\"***\"\n");
    if (option->type != VD_OPTION_STRING && option->type != VD_OPTION_PATH)
        return vd_buf_printf(out, option->type == VD_OPTION_CHOICE ? "\"%s\"\n" : "%s\n", text);
    int rc = vd_buf_append_u8(out, '"');
    for (; *text != '\0' && rc == VD_OK; text++) {
        if (*text == '"' || *text == '\\')
            rc = vd_buf_append_u8(out, '\\');
        if (rc == VD_OK)
            rc = vd_buf_append_u8(out, (uint8_t)*text);
    }
    return rc != VD_OK ? rc : vd_buf_printf(out, "\"\n");
}

static int print_help(const vd_option_t *option, vd_buf_t *out)
{
    char range[256], name[KEY_MAX_BYTES];
    environment_name(option->name, name, sizeof name);
    return vd_buf_printf(out, "  # %s.\n  # %s; default %s. Also %s, --%s.\n", option->help,
                         expected(option, range, sizeof range),
                         option->default_value[0] == '\0' ? "empty" : option->default_value, name,
                         option->name);
}

const char *vd_config_given(const vd_config_t *config, size_t i)
{
    VD_ASSERT(i < vd_option_count);
    const value_t *value = &config->values[i];
    if (value->text == NULL || strcmp(value->text, vd_options[i].default_value) == 0)
        return NULL;
    return vd_options[i].secret ? "***" : value->text;
}

int vd_config_print(const vd_config_t *config, vd_buf_t *out, bool with_help, vd_error_t *err)
{
    VD_ASSERT(config != NULL && out != NULL);

    const char *section = "";
    size_t section_len = 0;
    int rc = VD_OK;
    for (size_t i = 0; i < vd_option_count && rc == VD_OK; i++) {
        const vd_option_t *option = &vd_options[i];
        const char *dot = strchr(option->name, '.');
        if (config->values[i].text == NULL)
            continue;
        size_t len = (size_t)(dot - option->name);
        if (len != section_len || strncmp(section, option->name, len) != 0) {
            section = option->name;
            section_len = len;
            rc = vd_buf_printf(out, "%s%.*s:\n", vd_buf_len(out) > 0 && with_help ? "\n" : "",
                               (int)len, section);
        }
        if (rc == VD_OK && with_help)
            rc = print_help(option, out);
        if (rc == VD_OK)
            rc = vd_buf_printf(out, "  %s: ", dot + 1);
        if (rc == VD_OK)
            rc = print_value(option, config->values[i].text, out);
    }
    if (rc != VD_OK)
        return vd_error_set(err, rc, "printing the configuration");
    return VD_OK;
}
