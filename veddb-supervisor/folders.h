/* veddb-supervisor/folders.h — the folders of a node and who owns what in them.
 *
 * Duty:    each process has its own user where the node is started as root: folders and what is in
 *          them are given to the one that works there. What root has left there (an earlier start
 *          as root, a restored copy) is given too; what belongs to somebody else is refused. */
#pragma once
#include "libcommon/runtime/config.h"

#include <sys/types.h>

/* Whether each process gets its own user: started as root, unless node.allow_root says loudly that
 * root serves. A start as root with neither is refused, and one without the users. */
VD_MUST_CHECK int sup_users_choose(const vd_config_t *config, bool *ret_users, vd_error_t *err);
VD_MUST_CHECK int sup_user_ids(const char *program, uid_t *ret_uid, gid_t *ret_gid,
                               vd_error_t *err);
/* Makes node.run_folder with the private folders of all pairs and of the control links of the kinds
 * that join: each owned by its binder, reachable for its connector. start: node.folder with those
 * of storaged and rotated, too, and gives audit.second_place to rotated. */
VD_MUST_CHECK int sup_make_folders(const vd_config_t *config, bool users, bool start,
                                   vd_error_t *err);
/* Root that starts others needs little of what root may do; the rest is given up for good. */
VD_MUST_CHECK int sup_give_up_privileges(vd_error_t *err);
