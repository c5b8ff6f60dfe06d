/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/sftp_proto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define REPLY_MIN 5 /* type and id */
#define HEAD_SIZE 9
#define DATA_HEAD 13
#define NAME_MIN  12 /* two empty strings and attributes without any */
#define NAME_LEN  255

static uint32_t load_u32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store_u32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

/* ---- building ---- */

void cv_sftp_out_release(struct cv_sftp_out *out)
{
	free(out->data);
	memset(out, 0, sizeof(*out));
}

static uint8_t *grow(struct cv_sftp_out *out, size_t n)
{
	uint8_t *at;

	if (out->bad)
		return NULL;
	if (n > out->allocated - out->size) {
		size_t want = out->allocated ? out->allocated * 2 : 512;
		uint8_t *data;

		while (want - out->size < n)
			want *= 2;
		data = realloc(out->data, want);
		if (!data) {
			out->bad = true;
			return NULL;
		}
		out->data = data;
		out->allocated = want;
	}
	at = out->data + out->size;
	out->size += n;
	return at;
}

void cv_sftp_put_u8(struct cv_sftp_out *out, uint8_t v)
{
	uint8_t *p = grow(out, 1);

	if (p)
		*p = v;
}

void cv_sftp_put_u32(struct cv_sftp_out *out, uint32_t v)
{
	uint8_t *p = grow(out, 4);

	if (p)
		store_u32(p, v);
}

void cv_sftp_put_u64(struct cv_sftp_out *out, uint64_t v)
{
	cv_sftp_put_u32(out, (uint32_t)(v >> 32));
	cv_sftp_put_u32(out, (uint32_t)v);
}

void cv_sftp_put_bytes(struct cv_sftp_out *out, const void *data, size_t n)
{
	uint8_t *p = n ? grow(out, n) : NULL;

	if (p)
		memcpy(p, data, n);
}

void cv_sftp_put_string(struct cv_sftp_out *out, const void *data, size_t n)
{
	cv_sftp_put_u32(out, (uint32_t)n);
	cv_sftp_put_bytes(out, data, n);
}

void cv_sftp_put_text(struct cv_sftp_out *out, const char *s)
{
	cv_sftp_put_string(out, s, strlen(s));
}

void cv_sftp_put_ids(struct cv_sftp_out *out, const uint32_t *ids, size_t count)
{
	cv_sftp_put_u32(out, (uint32_t)(count * sizeof(*ids)));
	for (size_t i = 0; i < count; i++)
		cv_sftp_put_u32(out, ids[i]);
}

void cv_sftp_put_attrs(struct cv_sftp_out *out, const struct cv_sftp_attrs *a)
{
	cv_sftp_put_u32(out, a->flags & ~(uint32_t)CV_FXA_EXTENDED);
	if (a->flags & CV_FXA_SIZE)
		cv_sftp_put_u64(out, a->size);
	if (a->flags & CV_FXA_UIDGID) {
		cv_sftp_put_u32(out, a->uid);
		cv_sftp_put_u32(out, a->gid);
	}
	if (a->flags & CV_FXA_PERMISSIONS)
		cv_sftp_put_u32(out, a->permissions);
	if (a->flags & CV_FXA_ACMODTIME) {
		cv_sftp_put_u32(out, a->atime);
		cv_sftp_put_u32(out, a->mtime);
	}
}

size_t cv_sftp_begin(struct cv_sftp_out *out, uint8_t type, uint32_t id)
{
	size_t start = out->size;

	cv_sftp_put_u32(out, 0);
	cv_sftp_put_u8(out, type);
	cv_sftp_put_u32(out, id);
	return start;
}

void cv_sftp_end(struct cv_sftp_out *out, size_t start, size_t extra)
{
	if (!out->bad)
		store_u32(out->data + start, (uint32_t)(out->size - start - 4 + extra));
}

/* ---- taking apart ---- */

static const uint8_t *take(struct cv_sftp_in *in, size_t n)
{
	const uint8_t *p = in->p;

	if (in->bad || n > in->left) {
		in->bad = true;
		return NULL;
	}
	in->p += n;
	in->left -= n;
	return p;
}

uint32_t cv_sftp_get_u32(struct cv_sftp_in *in)
{
	const uint8_t *p = take(in, 4);

	return p ? load_u32(p) : 0;
}

uint64_t cv_sftp_get_u64(struct cv_sftp_in *in)
{
	uint64_t high = cv_sftp_get_u32(in);

	return high << 32 | cv_sftp_get_u32(in);
}

const uint8_t *cv_sftp_get_string(struct cv_sftp_in *in, size_t *ret_size)
{
	uint32_t n = cv_sftp_get_u32(in);
	const uint8_t *p = take(in, n);

	*ret_size = p ? n : 0;
	return p ? p : (const uint8_t *)"";
}

void cv_sftp_get_attrs(struct cv_sftp_in *in, struct cv_sftp_attrs *a)
{
	memset(a, 0, sizeof(*a));
	a->flags = cv_sftp_get_u32(in);
	if (a->flags & CV_FXA_SIZE)
		a->size = cv_sftp_get_u64(in);
	if (a->flags & CV_FXA_UIDGID) {
		a->uid = cv_sftp_get_u32(in);
		a->gid = cv_sftp_get_u32(in);
	}
	if (a->flags & CV_FXA_PERMISSIONS)
		a->permissions = cv_sftp_get_u32(in);
	if (a->flags & CV_FXA_ACMODTIME) {
		a->atime = cv_sftp_get_u32(in);
		a->mtime = cv_sftp_get_u32(in);
	}
	if (a->flags & CV_FXA_EXTENDED) {
		/* Ends at the latest with the packet: each pair takes eight bytes or sets bad. */
		for (uint32_t n = cv_sftp_get_u32(in); n > 0 && !in->bad; n--) {
			size_t unused;

			(void)cv_sftp_get_string(in, &unused);
			(void)cv_sftp_get_string(in, &unused);
		}
	}
}

uint32_t cv_sftp_get_count(struct cv_sftp_in *in)
{
	uint32_t n = cv_sftp_get_u32(in);

	if (n > in->left / NAME_MIN) {
		in->bad = true;
		return 0;
	}
	return n;
}

void cv_sftp_get_name(struct cv_sftp_in *in, struct cv_sftp_name *name)
{
	name->name = (const char *)cv_sftp_get_string(in, &name->name_len);
	name->longname = (const char *)cv_sftp_get_string(in, &name->longname_len);
	cv_sftp_get_attrs(in, &name->attrs);
}

bool cv_sftp_name_ok(const char *name, size_t len)
{
	if (len == 0 || len > NAME_LEN || memchr(name, '/', len) || memchr(name, '\0', len))
		return false;
	return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

static char type_letter(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return '-';
	case S_IFDIR:
		return 'd';
	case S_IFLNK:
		return 'l';
	case S_IFIFO:
		return 'p';
	case S_IFSOCK:
		return 's';
	case S_IFCHR:
		return 'c';
	case S_IFBLK:
		return 'b';
	default:
		return '?';
	}
}

uint32_t cv_sftp_longname_nlink(const char *s, size_t len, uint32_t mode)
{
	uint64_t n = 0;
	size_t i = 10; /* "drwxr-xr-x" */
	size_t digits;

	if (len < 12 || s[0] != type_letter(mode))
		return 0;
	for (size_t k = 1; k < 10; k++) {
		if (!memchr("rwxsStT-", s[k], 8))
			return 0;
	}
	if (s[i] == '+' || s[i] == '.' || s[i] == '@')
		i++;
	if (s[i] != ' ')
		return 0;
	while (i < len && s[i] == ' ')
		i++;
	for (digits = 0; i < len && s[i] >= '0' && s[i] <= '9' && digits < 10; i++, digits++)
		n = n * 10 + (uint64_t)(s[i] - '0');
	/* A user name of digits in this place has another number or a name behind it as well, but
	 * then what follows is no line of `ls -l`; nothing depends on it. */
	if (digits == 0 || i >= len || s[i] != ' ' || n > UINT32_MAX)
		return 0;
	return (uint32_t)n;
}

/* ---- the stream ---- */

void cv_sftp_parser_release(struct cv_sftp_parser *p)
{
	free(p->buf);
	p->buf = NULL;
	p->allocated = 0;
	p->failed = -EPIPE;
}

static int reserve(struct cv_sftp_parser *p, size_t n)
{
	uint8_t *buf;
	size_t want = p->allocated ? p->allocated : 4096;

	if (n <= p->allocated)
		return 0;
	while (want < n)
		want *= 2;
	buf = realloc(p->buf, want);
	if (!buf)
		return -ENOMEM;
	p->buf = buf;
	p->allocated = want;
	return 0;
}

static int finish(struct cv_sftp_parser *p)
{
	uint8_t type = p->head[4];
	bool is_data = type == CV_FXP_DATA;
	size_t size = p->body_size;

	p->head_have = 0;
	p->body_have = 0;
	p->dest = NULL;
	return p->reply(p->user, type, load_u32(p->head + 5), is_data ? NULL : p->buf, size);
}

/* The head is complete: where does the body go? */
static int start_body(struct cv_sftp_parser *p)
{
	uint32_t length = load_u32(p->head);

	if (p->head[4] != CV_FXP_DATA) {
		p->body_size = length - REPLY_MIN;
		/* One byte more, so that a body is never NULL and can be terminated. */
		return reserve(p, p->body_size + 1);
	}
	p->body_size = load_u32(p->head + 9);
	if (length < REPLY_MIN + 4 || p->body_size != length - REPLY_MIN - 4)
		return -EPROTO;
	if (p->body_size == 0)
		return 0;
	p->dest = p->data_dest(p->user, load_u32(p->head + 5), (uint32_t)p->body_size);
	return p->dest ? 0 : -EPROTO;
}

static size_t head_wanted(const struct cv_sftp_parser *p)
{
	return p->head_have >= HEAD_SIZE && p->head[4] == CV_FXP_DATA ? DATA_HEAD : HEAD_SIZE;
}

/* Takes bytes of the head. Returns 1 when it is complete, 0 when more is needed, or -errno. */
static int feed_head(struct cv_sftp_parser *p, const uint8_t **bytes, size_t *n)
{
	while (p->head_have < head_wanted(p)) {
		size_t part = head_wanted(p) - p->head_have;

		if (part > *n)
			part = *n;
		if (part == 0)
			return 0;
		memcpy(p->head + p->head_have, *bytes, part);
		p->head_have += part;
		*bytes += part;
		*n -= part;
		if (p->head_have >= HEAD_SIZE &&
		    (load_u32(p->head) < REPLY_MIN || load_u32(p->head) > CV_SFTP_PACKET_MAX))
			return -EPROTO;
	}
	return 1;
}

int cv_sftp_parser_feed(struct cv_sftp_parser *p, const uint8_t *bytes, size_t n)
{
	while (n > 0 && p->failed == 0) {
		size_t part;
		int r;

		if (p->head_have < head_wanted(p)) {
			r = feed_head(p, &bytes, &n);
			if (r == 0)
				break;
			if (r > 0)
				r = start_body(p);
			if (r < 0) {
				p->failed = r;
				break;
			}
		}
		part = p->body_size - p->body_have;
		if (part > n)
			part = n;
		if (part > 0)
			memcpy((p->dest ? p->dest : p->buf) + p->body_have, bytes, part);
		p->body_have += part;
		bytes += part;
		n -= part;
		if (p->body_have == p->body_size)
			p->failed = finish(p);
	}
	return p->failed;
}
