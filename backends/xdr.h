/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounded reading and writing of XDR (RFC 4506). A reader never leaves its bytes: once something
 * does not fit, it is `bad` and yields zeros, so a decoder checks once, at its end. Servers are not
 * trusted. A writer behaves in the same way: what does not fit makes it `bad`, and is left out.
 */
#ifndef CV_BACKENDS_XDR_H
#define CV_BACKENDS_XDR_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct cv_xdr {
	const uint8_t *p;
	size_t left;
	bool bad;
	/* NFSv3's attributes: the file system that the mount's root is in. Not known: the one that
	 * the first attributes are of. */
	bool have_fsid;
	uint64_t fsid;
};

static inline struct cv_xdr cv_xdr_init(const void *data, size_t size)
{
	return (struct cv_xdr){ .p = data, .left = size, .bad = false };
}

static inline const uint8_t *cv_xdr_take(struct cv_xdr *x, size_t size)
{
	const uint8_t *p = x->p;

	if (x->bad || size > x->left) {
		x->bad = true;
		return NULL;
	}
	x->p += size;
	x->left -= size;
	return p;
}

static inline uint32_t cv_xdr_u32(struct cv_xdr *x)
{
	const uint8_t *p = cv_xdr_take(x, 4);
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, 4);
	return ntohl(v);
}

static inline uint64_t cv_xdr_u64(struct cv_xdr *x)
{
	uint64_t high = cv_xdr_u32(x);

	return high << 32 | cv_xdr_u32(x);
}

static inline bool cv_xdr_bool(struct cv_xdr *x)
{
	return cv_xdr_u32(x) != 0;
}

/* opaque<max> or string<max>: points into the reply, padding skipped. NULL when bad. */
static inline const uint8_t *cv_xdr_opaque(struct cv_xdr *x, size_t max, size_t *ret_size)
{
	uint32_t size = cv_xdr_u32(x);
	const uint8_t *p;

	*ret_size = 0;
	if (x->bad || size > max || size > x->left) {
		x->bad = true;
		return NULL;
	}
	p = cv_xdr_take(x, size);
	if (size % 4)
		(void)cv_xdr_take(x, 4 - size % 4);
	*ret_size = size;
	return x->bad ? NULL : p;
}

struct cv_xdr_out {
	uint8_t *p;
	size_t left;
	bool bad;
};

static inline struct cv_xdr_out cv_xdr_out_init(void *buf, size_t size)
{
	return (struct cv_xdr_out){ .p = buf, .left = size, .bad = false };
}

/* opaque[size], padded with zeros. */
static inline void cv_xdr_put_fixed(struct cv_xdr_out *o, const void *data, size_t size)
{
	size_t padded = (size + 3) & ~(size_t)3;

	if (o->bad || padded < size || padded > o->left) {
		o->bad = true;
		return;
	}
	if (size)
		memcpy(o->p, data, size);
	memset(o->p + size, 0, padded - size);
	o->p += padded;
	o->left -= padded;
}

static inline void cv_xdr_put_u32(struct cv_xdr_out *o, uint32_t v)
{
	v = htonl(v);
	cv_xdr_put_fixed(o, &v, sizeof(v));
}

static inline void cv_xdr_put_u64(struct cv_xdr_out *o, uint64_t v)
{
	cv_xdr_put_u32(o, (uint32_t)(v >> 32));
	cv_xdr_put_u32(o, (uint32_t)v);
}

/* opaque<> or string<> */
static inline void cv_xdr_put_opaque(struct cv_xdr_out *o, const void *data, size_t size)
{
	cv_xdr_put_u32(o, (uint32_t)size);
	cv_xdr_put_fixed(o, data, size);
}

#endif
