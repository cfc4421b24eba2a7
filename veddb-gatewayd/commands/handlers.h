/* veddb-gatewayd/commands/handlers.h — what the table points to. Each handler: VD_OK and the
 * reply's fields without ok, GATE_LATER, or an error. */
#pragma once
#include "veddb-gatewayd/request.h"

/* hello.c */
int gate_command_hello(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
/* The topology changed: those who wait for it are answered. */
void gate_hello_wake(gate_thread_t *thread);

/* info.c */
int gate_command_ping(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_build_info(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_host_info(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_get_parameter(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_set_parameter(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_set_fcv(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_get_cmd_line_opts(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_get_log(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_list_commands(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_whatsmyuri(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_features(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_conn_pool_stats(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_get_last_error(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);

/* login.c */
int gate_command_connection_status(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_logout(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_invalidate_user_cache(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);

/* login.c, on the worker */
int gate_command_rotate_certificates(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);

/* limits.c */
int gate_command_limits(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);

/* replication.c */
int gate_command_repl_set_get_status(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_repl_set_administer(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_repl_set_get_config(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);

/* status.c */
int gate_command_server_status(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);

/* users.c, on the worker */
int gate_command_create_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_update_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_drop_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_drop_all_users(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_grant_roles_to_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_revoke_roles_from_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_users_info(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);

/* tokens.c, on the worker */
int gate_command_revoke_token(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_revoke_user_tokens(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_rotate_token_keys(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);

/* roles.c, on the worker */
int gate_command_create_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_update_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_drop_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_drop_all_roles(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_grant_privileges_to_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_revoke_privileges_from_role(gate_request_t *request, vd_bb_t *reply,
                                             vd_error_t *err);
int gate_command_grant_roles_to_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_revoke_roles_from_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_command_roles_info(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
