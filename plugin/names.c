/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/names.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/str.h"

#define HASH_DIGITS 32 /* 128 bits of SHA-256 in a shortened name */

static bool has_dot_component(const char *name)
{
	const char *p = name;

	for (;;) {
		size_t len = strcspn(p, "/");

		if ((len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
			return true;
		if (!p[len])
			return false;
		p += len + 1;
	}
}

int cv_name_check(const char *name, struct cv_err *err)
{
	size_t len = name ? strlen(name) : 0;

	if (len == 0)
		return cv_fail(err, EINVAL, "the volume name is empty");
	if (len > CV_VOLUME_NAME_MAX)
		return cv_fail(err, EINVAL, "the volume name has %zu bytes; at most %d are allowed",
			       len, CV_VOLUME_NAME_MAX);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)name[i];

		/* U+0080..U+009F, as C2 80..C2 9F, are control characters as well. */
		if (c < 0x20 || c == 0x7f ||
		    (c == 0xc2 && (unsigned char)name[i + 1] >= 0x80 &&
		     (unsigned char)name[i + 1] < 0xa0))
			return cv_fail(err, EINVAL, "the volume name contains a control character");
	}
	if (!cv_str_is_utf8(name))
		return cv_fail(err, EINVAL, "the volume name is not valid UTF-8");
	if (has_dot_component(name))
		return cv_fail(err, EINVAL,
			       "the volume name must not be or contain the path component '.' "
			       "or '..'");
	return 0;
}

static bool is_plain(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '_' || c == '.' || c == '-';
}

/* Encodes as much as fits in room bytes; returns how many bytes the whole would need. */
static size_t encode(const char *name, size_t room, char *out)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t need = 0, used = 0;
	bool full = false;

	for (size_t i = 0; name[i]; i++) {
		unsigned char c = (unsigned char)name[i];
		bool plain = is_plain(c) && !(i == 0 && c == '.');
		size_t n = plain ? 1 : 3;

		need += n;
		if (full || used + n > room) {
			full = true;
			continue;
		}
		if (plain) {
			out[used] = (char)c;
		} else {
			out[used] = '%';
			out[used + 1] = hex[c >> 4];
			out[used + 2] = hex[c & 15];
		}
		used += n;
	}
	out[used] = '\0';
	return need;
}

void cv_name_encode(const char *name, size_t max, char *out)
{
	char hash[65];
	size_t len;

	if (encode(name, max, out) <= max)
		return;
	(void)encode(name, max - HASH_DIGITS - 1, out);
	cv_sha256_hex(name, strlen(name), hash);
	len = strlen(out);
	(void)snprintf(out + len, max + 1 - len, "~%.*s", HASH_DIGITS, hash);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

char *cv_name_decode(const char *encoded)
{
	size_t len = strlen(encoded), used = 0;
	char *out;

	if (strchr(encoded, '~'))
		return strdup(encoded);
	out = malloc(len + 1);
	if (!out)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		int hi = 0, lo = 0;

		if (encoded[i] == '%') {
			hi = hex_digit(encoded[i + 1]);
			lo = hi < 0 ? -1 : hex_digit(encoded[i + 2]);
			if (lo < 0) {
				free(out);
				return NULL;
			}
			out[used++] = (char)(hi << 4 | lo);
			i += 2;
		} else {
			out[used++] = encoded[i];
		}
	}
	out[used] = '\0';
	if (strlen(out) != used || cv_name_check(out, NULL) < 0) {
		free(out);
		return NULL;
	}
	return out;
}

/* SHA-256 (FIPS 180-4): a hash that nobody can make two names collide in, without a library. */
static const uint32_t sha_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2,
};

static uint32_t ror(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *p)
{
	uint32_t w[64], v[8];

	for (unsigned i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
		       (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
	for (unsigned i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];

		w[i] = w[i - 16] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) + w[i - 7] +
		       (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
	}
	memcpy(v, h, sizeof(v));
	for (unsigned i = 0; i < 64; i++) {
		uint32_t t1 = v[7] + (ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25)) +
			      ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha_k[i] + w[i];
		uint32_t t2 = (ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22)) +
			      ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

		memmove(v + 1, v, 7 * sizeof(v[0]));
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (unsigned i = 0; i < 8; i++)
		h[i] += v[i];
}

void cv_sha256_hex(const void *data, size_t size, char out[65])
{
	uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	const uint8_t *p = data;
	uint8_t tail[128] = { 0 };
	size_t rest = size % 64, tail_size = rest < 56 ? 64 : 128;

	for (size_t i = 0; i < size / 64; i++)
		sha_block(h, p + 64 * i);
	memcpy(tail, p + size - rest, rest);
	tail[rest] = 0x80;
	for (unsigned i = 0; i < 8; i++)
		tail[tail_size - 1 - i] = (uint8_t)((uint64_t)size * 8 >> (8 * i));
	for (size_t i = 0; i < tail_size; i += 64)
		sha_block(h, tail + i);
	for (unsigned i = 0; i < 8; i++)
		(void)snprintf(out + 8 * (size_t)i, 9, "%08x", h[i]);
}
