/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NFSv4 names owners by text: "1000", or "alice@example.org". With AUTH_SYS the numbers are what
 * both sides go by (RFC 8881, 5.9), so numbers are what we send until the server refuses them; what
 * we receive is a number, or a user or group of this host's own /etc/passwd and /etc/group. Only
 * those files are read, never a name service: that could block. A name that is in neither is
 * nobody's, and only that one.
 */
#ifndef CV_BACKENDS_NFS4_OWNER_H
#define CV_BACKENDS_NFS4_OWNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CV_OWNER_NOBODY 65534u

struct cv_owners;

/* NULL: no memory. passwd, group: the files; they need not be there, and may change. */
struct cv_owners *cv_owners_new(const char *passwd, const char *group);
void cv_owners_free(struct cv_owners *owners);

/* arg: struct cv_owners. name: as the server sends it. */
uint32_t cv_owners_uid(void *arg, const char *name);
uint32_t cv_owners_gid(void *arg, const char *name);
/*
 * What to send. names: the server wants name@domain; the domain is the one it uses itself. What
 * cannot be said in that way goes as a number all the same.
 */
void cv_owners_format(struct cv_owners *owners, bool group, bool names, uint32_t id, char *ret,
		      size_t size);

#endif
