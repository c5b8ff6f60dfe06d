/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes, sockets and device nodes. The protocol cannot make them, and programs need them: a
 * database puts its socket into its data directory, an image has a fifo. On the server each is a
 * symbolic link that leads nowhere and says in its target what it stands for: links can be owned,
 * renamed, linked and removed like the real thing, and whoever looks at the server's directory sees
 * what it is. All such targets have one length, which a stat tells, so that only links of just that
 * length are read.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/sftp.h"
#include "config/cleanup.h"

/* Below a device, where nothing can ever be. Then: kind, mode, device number. */
#define TARGET	      "/dev/null/cvol-special-file/"
#define TARGET_FORMAT TARGET "%c/%04" PRIo32 "/%016" PRIx64

static const struct {
	char letter;
	uint32_t type;
} kinds[] = {
	{ 'p', S_IFIFO },
	{ 's', S_IFSOCK },
	{ 'b', S_IFBLK },
	{ 'c', S_IFCHR },
};

bool sftp_special_can(const struct sftp_engine *e)
{
	return e->link.session.openssh && sftp_offers(e, SFTP_EXT_LSETSTAT) &&
	       sftp_offers(e, SFTP_EXT_POSIX_RENAME) && e->symlinks != SFTP_SYMLINKS_FOLLOW;
}

bool sftp_special_maybe(const struct sftp_engine *e, const struct cv_sftp_attrs *attrs)
{
	return (attrs->flags & CV_FXA_PERMISSIONS) && S_ISLNK(attrs->permissions) &&
	       (attrs->flags & CV_FXA_SIZE) && attrs->size == SFTP_SPECIAL_SIZE &&
	       sftp_special_can(e);
}

bool sftp_special_format(uint32_t mode, uint64_t rdev, char target[SFTP_SPECIAL_SIZE + 1])
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(kinds); i++) {
		if (kinds[i].type == (mode & S_IFMT)) {
			(void)snprintf(target, SFTP_SPECIAL_SIZE + 1, TARGET_FORMAT,
				       kinds[i].letter, mode & 07777, rdev);
			return true;
		}
	}
	return false;
}

bool sftp_special_parse(const char *target, uint32_t *ret_mode, uint64_t *ret_rdev)
{
	char again[SFTP_SPECIAL_SIZE + 1];
	char letter;
	uint32_t mode;
	uint64_t rdev;

	if (sscanf(target, TARGET "%c/%4" SCNo32 "/%16" SCNx64, &letter, &mode, &rdev) != 3)
		return false;
	for (size_t i = 0; i < CV_ARRAY_SIZE(kinds); i++) {
		if (kinds[i].letter == letter)
			mode |= kinds[i].type;
	}
	/* Just as we write it, or it is not ours. */
	if (!sftp_special_format(mode, rdev, again) || strcmp(again, target) != 0)
		return false;
	*ret_mode = mode;
	*ret_rdev = rdev;
	return true;
}
