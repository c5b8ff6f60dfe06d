/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of SFTP version 3 (draft-ietf-secsh-filexfer-02 and OpenSSH's PROTOCOL file): building
 * packets, taking replies apart, and a streaming parser that puts file data straight where it
 * belongs. No transport, no state of an engine; everything that comes in is hostile until checked.
 */
#ifndef CV_BACKENDS_SFTP_PROTO_H
#define CV_BACKENDS_SFTP_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CV_SFTP_PACKET_MAX                                                                         \
	(256u * 1024 + 1024) /* of a reply, as OpenSSH limits it, and a margin                     \
			      */
#define CV_SFTP_HANDLE_MAX 256

enum cv_sftp_type {
	CV_FXP_INIT = 1,
	CV_FXP_VERSION = 2,
	CV_FXP_OPEN = 3,
	CV_FXP_CLOSE = 4,
	CV_FXP_READ = 5,
	CV_FXP_WRITE = 6,
	CV_FXP_LSTAT = 7,
	CV_FXP_FSTAT = 8,
	CV_FXP_SETSTAT = 9,
	CV_FXP_FSETSTAT = 10,
	CV_FXP_OPENDIR = 11,
	CV_FXP_READDIR = 12,
	CV_FXP_REMOVE = 13,
	CV_FXP_MKDIR = 14,
	CV_FXP_RMDIR = 15,
	CV_FXP_REALPATH = 16,
	CV_FXP_STAT = 17,
	CV_FXP_RENAME = 18,
	CV_FXP_READLINK = 19,
	CV_FXP_SYMLINK = 20,
	CV_FXP_STATUS = 101,
	CV_FXP_HANDLE = 102,
	CV_FXP_DATA = 103,
	CV_FXP_NAME = 104,
	CV_FXP_ATTRS = 105,
	CV_FXP_EXTENDED = 200,
	CV_FXP_EXTENDED_REPLY = 201,
};

enum cv_sftp_status {
	CV_FX_OK = 0,
	CV_FX_EOF = 1,
	CV_FX_NO_SUCH_FILE = 2,
	CV_FX_PERMISSION_DENIED = 3,
	CV_FX_FAILURE = 4,
	CV_FX_BAD_MESSAGE = 5,
	CV_FX_NO_CONNECTION = 6,
	CV_FX_CONNECTION_LOST = 7,
	CV_FX_OP_UNSUPPORTED = 8,
};

enum cv_sftp_pflags {
	CV_FXF_READ = 1 << 0,
	CV_FXF_WRITE = 1 << 1,
	CV_FXF_APPEND = 1 << 2,
	CV_FXF_CREAT = 1 << 3,
	CV_FXF_TRUNC = 1 << 4,
	CV_FXF_EXCL = 1 << 5,
};

enum cv_sftp_attr_flags {
	CV_FXA_SIZE = 1 << 0,
	CV_FXA_UIDGID = 1 << 1,
	CV_FXA_PERMISSIONS = 1 << 2,
	CV_FXA_ACMODTIME = 1 << 3,
	CV_FXA_EXTENDED = 1u << 31,
};

struct cv_sftp_attrs {
	uint32_t flags; /* enum cv_sftp_attr_flags: which of the rest count */
	uint64_t size;
	uint32_t uid;
	uint32_t gid;
	uint32_t permissions; /* with type bits */
	uint32_t atime;	      /* seconds */
	uint32_t mtime;
};

/* ---- building: appends to a growable buffer; a failed allocation makes it bad for good ---- */

struct cv_sftp_out {
	uint8_t *data; /* owned */
	size_t size;
	size_t allocated;
	bool bad;
};

void cv_sftp_out_release(struct cv_sftp_out *out);
void cv_sftp_put_u8(struct cv_sftp_out *out, uint8_t v);
void cv_sftp_put_u32(struct cv_sftp_out *out, uint32_t v);
void cv_sftp_put_u64(struct cv_sftp_out *out, uint64_t v);
void cv_sftp_put_bytes(struct cv_sftp_out *out, const void *p, size_t n); /* without a length */
void cv_sftp_put_string(struct cv_sftp_out *out, const void *p, size_t n);
void cv_sftp_put_text(struct cv_sftp_out *out, const char *s);
void cv_sftp_put_ids(struct cv_sftp_out *out, const uint32_t *ids, size_t count);
void cv_sftp_put_attrs(struct cv_sftp_out *out, const struct cv_sftp_attrs *attrs);
/* Starts a packet (id is the version for INIT); returns where, for cv_sftp_end(). */
size_t cv_sftp_begin(struct cv_sftp_out *out, uint8_t type, uint32_t id);
/* Fills in the length; extra: bytes of the packet that will follow from elsewhere. */
void cv_sftp_end(struct cv_sftp_out *out, size_t start, size_t extra);

/* ---- taking apart: reading past the end gives zeros and sets bad ---- */

struct cv_sftp_in {
	const uint8_t *p;
	size_t left;
	bool bad;
};

uint32_t cv_sftp_get_u32(struct cv_sftp_in *in);
uint64_t cv_sftp_get_u64(struct cv_sftp_in *in);
/* Points into the packet; not terminated. */
const uint8_t *cv_sftp_get_string(struct cv_sftp_in *in, size_t *ret_size);
void cv_sftp_get_attrs(struct cv_sftp_in *in, struct cv_sftp_attrs *ret_attrs);

struct cv_sftp_name {
	const char *name; /* name_len bytes, not terminated */
	size_t name_len;
	const char *longname; /* likewise; server's `ls -l` line */
	size_t longname_len;
	struct cv_sftp_attrs attrs;
};

/* Number of entries of a NAME reply; sets bad if so many cannot be in what is left. */
uint32_t cv_sftp_get_count(struct cv_sftp_in *in);
void cv_sftp_get_name(struct cv_sftp_in *in, struct cv_sftp_name *ret_name);
/* May be the name of a directory's entry: not "", ".", "..", no '/' and no NUL, at most 255. */
bool cv_sftp_name_ok(const char *name, size_t len);
/* The link count out of an `ls -l` line, or 0 if it does not look like one for this mode. */
uint32_t cv_sftp_longname_nlink(const char *longname, size_t len, uint32_t mode);

/* ---- the stream of replies ---- */

struct cv_sftp_parser {
	/*
	 * size bytes of file data are coming for request id: returns where they go, or NULL to end
	 * the stream. Not called for size 0.
	 */
	uint8_t *(*data_dest)(void *user, uint32_t id, uint32_t size);
	/*
	 * A whole reply. body: what follows the id (VERSION: the version number is in id);
	 * writable, valid during the call. DATA: body is NULL and size the number of bytes put in
	 * place. Returns 0, or -errno to end the stream.
	 */
	int (*reply)(void *user, uint8_t type, uint32_t id, uint8_t *body, size_t size);
	void *user;

	uint8_t head[13]; /* length, type, id and, for DATA, its size */
	size_t head_have;
	size_t body_size;
	size_t body_have;
	uint8_t *dest; /* DATA: where the body goes */
	uint8_t *buf;  /* owned; other replies */
	size_t allocated;
	int failed; /* -errno once the stream is unusable */
};

void cv_sftp_parser_release(struct cv_sftp_parser *parser);
/* Takes all n bytes. Returns 0 or -errno (-EPROTO: not SFTP), then and ever after. */
int cv_sftp_parser_feed(struct cv_sftp_parser *p, const uint8_t *bytes, size_t n);

#endif
