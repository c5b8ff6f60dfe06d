/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/rpc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "backends/xdr.h"
#include "config/cleanup.h"
#include "config/log.h"
#include "config/step.h"
#include "config/str.h"

#define LAST_FRAGMENT	0x80000000u
#define HEAD_MAX	512 /* record mark and RPC header with 16 groups */
#define RX_SIZE		(CV_RPC_REPLY_MAX + 256u * 1024)
#define RX_SLOP		(64u * 1024) /* read past a large record at most this far */
#define TURN_BYTES	(8u << 20)   /* received per turn before others get theirs */
#define GATHER		48	     /* iovecs per sendmsg() */
#define PARTS		4	     /* of a call: head, data, padding, tail */
#define FRAGMENTS_MAX	1024
#define FORGOTTEN	4 /* timeouts after which a call counts as lost by the server */
#define PATIENCE_MAX	8
#define TICK_MS		200
#define SETTLED_NS	1000000000ull /* a connection that lived this long was a good one */
#define BACKOFF_MIN_MS	100
#define BACKOFF_MAX_MS	1000 /* how long a server may be back unnoticed */
#define DIAL_MS		10000
#define GREETING_MS	2000 /* a server that is there takes a connection, and answers NULL */
#define PATIENT_EVERY	5    /* of so many tries one waits longer than that, for a slow one, */
#define PATIENCE_TRIES	10   /* so many times as long at most */
#define REPLAY_AGAIN_NS 1000000000ull
#define REPLAY_BUSY_NS	100000000ull
#define PORTMAP_PORT	111
#define PORTMAP_PROGRAM 100000
#define PORTMAP_GETPORT 3
#define RESERVED_PORTS	361 /* 663 to 1023, as others use */
#define AUTH_SYS	1
#define MACHINE_NAME	"cvol"

/*
 * The helper thread's work. The thread and the rpc share it: whoever comes last frees it, so that
 * cv_rpc_free() need not wait for a name server.
 */
struct dial {
	struct cv_posted posted;
	struct cv_rpc_config config;
	struct cv_loop *loop;
	uint16_t prefer_port;
	int fd; /* result, with err */
	struct cv_err err;
	pthread_mutex_t lock; /* protects the rest */
	struct cv_rpc *rpc;   /* NULL: it is gone */
	bool is_posted;	      /* the loop will run posted, and that frees */
	bool abandoned;	      /* the rpc and perhaps the loop are gone: the thread frees */
};

struct cv_rpc {
	struct cv_loop *loop;
	struct cv_rpc_config config;
	struct cv_watch watch; /* fd -1: not connected */
	struct cv_deferred flush;
	struct cv_timer retry;
	struct cv_timer tick;
	struct dial *dial;
	unsigned backoff_ms;
	unsigned tries;	      /* to connect, since a server was there */
	uint64_t greeting_ns; /* how long the last one has to be answered */
	bool greeted;	      /* the server has answered on this connection: it gets the calls */
	uint64_t attached_ns;
	bool answered;	   /* this connection has brought an answer */
	unsigned patience; /* timeouts of silence that are borne: see disconnect() */
	uint16_t source_port;
	uint32_t next_xid;
	unsigned seed;

	/* In order of submission; the first `wire` of them are on the wire. */
	struct cv_rpc_call *first, *last;
	struct cv_rpc_call *unsent; /* first not completely sent; NULL: none */
	size_t count, wire;

	uint8_t *rx;
	size_t rx_start, rx_end;
	size_t rx_body; /* bytes of the current record gathered from earlier fragments */
	unsigned rx_fragments;
	uint64_t heard_ns; /* last sign of life: a byte from the server, or one it acknowledged */
	uint64_t sent_bytes, acked_bytes; /* on this connection */
	bool pinged;
	struct cv_rpc_call ping;
	bool pinging;

	uint64_t reconnects;
	char last_error[256];
	uint64_t last_error_s;
};

/* ---- building calls ---- */

static uint8_t *put_u32(uint8_t *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, 4);
	return p + 4;
}

/* What follows data in XDR. */
static size_t padding(size_t data_size)
{
	return (4 - data_size % 4) % 4;
}

/* Everything before the arguments, record mark included (filled in by the caller). */
static size_t put_header(uint8_t *start, uint32_t xid, uint32_t program, uint32_t version,
			 uint32_t procedure, const struct cv_cred *cred)
{
	static const char name[] = MACHINE_NAME;
	size_t name_size = sizeof(name) - 1, padded = (name_size + 3) & ~(size_t)3;
	uint8_t *p = start + 4;

	p = put_u32(p, xid);
	p = put_u32(p, 0); /* CALL */
	p = put_u32(p, 2); /* RPC version */
	p = put_u32(p, program);
	p = put_u32(p, version);
	p = put_u32(p, procedure);
	if (cred) {
		uint32_t n = cred->ngroups < CV_GROUPS_MAX ? cred->ngroups : CV_GROUPS_MAX;

		p = put_u32(p, AUTH_SYS);
		p = put_u32(p, (uint32_t)(4 + 4 + padded + 4 + 4 + 4 + 4 * n));
		p = put_u32(p, 0); /* stamp */
		p = put_u32(p, (uint32_t)name_size);
		memset(p, 0, padded);
		memcpy(p, name, name_size);
		p += padded;
		p = put_u32(p, cred->uid);
		p = put_u32(p, cred->gid);
		p = put_u32(p, n);
		for (uint32_t i = 0; i < n; i++)
			p = put_u32(p, cred->groups[i]);
	} else {
		p = put_u32(p, 0);
		p = put_u32(p, 0);
	}
	p = put_u32(p, 0); /* verifier: AUTH_NONE */
	p = put_u32(p, 0);
	return (size_t)(p - start);
}

int cv_rpc_parse_reply(const uint8_t *record, size_t size, uint32_t *ret_xid,
		       const uint8_t **ret_results, size_t *ret_size)
{
	struct cv_xdr x = cv_xdr_init(record, size);
	uint32_t type, status;
	size_t n;

	*ret_xid = cv_xdr_u32(&x);
	type = cv_xdr_u32(&x);
	status = cv_xdr_u32(&x);
	if (x.bad || type != 1)
		return -EBADMSG;
	if (status != 0) /* MSG_DENIED: RPC_MISMATCH or AUTH_ERROR */
		return cv_xdr_u32(&x) == 1 ? -EACCES : -EIO;
	(void)cv_xdr_u32(&x);
	(void)cv_xdr_opaque(&x, 400, &n);
	status = cv_xdr_u32(&x);
	if (x.bad)
		return -EBADMSG;
	*ret_results = x.p;
	*ret_size = x.left;
	switch (status) {
	case 0:
		return 0;
	case 1: /* PROG_UNAVAIL */
	case 2: /* PROG_MISMATCH */
		return -EPROTONOSUPPORT;
	case 3: /* PROC_UNAVAIL */
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

/* ---- blocking side: dialling, single calls ---- */

static int left_ms(uint64_t deadline_ns)
{
	uint64_t now = cv_now_ns();

	return now >= deadline_ns ? 0 : (int)((deadline_ns - now + 999999) / 1000000);
}

static int wait_for(int fd, short events, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd pfd = { .fd = fd, .events = events };
		int ms = left_ms(deadline_ns), r;

		if (ms == 0)
			return -ETIMEDOUT;
		r = poll(&pfd, 1, ms);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
	}
}

/* idle_ns: each bit of progress moves the deadline to so much from then; 0: nothing does. */
static int transfer(int fd, bool out, void *buf, size_t size, uint64_t deadline_ns,
		    uint64_t idle_ns)
{
	uint8_t *p = buf;

	while (size) {
		ssize_t n = out ? send(fd, p, size, MSG_NOSIGNAL | MSG_DONTWAIT)
				: recv(fd, p, size, MSG_DONTWAIT);

		if (n == 0)
			return -ECONNRESET;
		if (n > 0) {
			p += n;
			size -= (size_t)n;
			if (idle_ns)
				deadline_ns = cv_now_ns() + idle_ns;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		{
			int r = wait_for(fd, out ? POLLOUT : POLLIN, deadline_ns);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* A whole record, its fragments joined. */
static int receive_record(int fd, uint64_t deadline_ns, uint8_t **ret_record, size_t *ret_size)
{
	cv_cleanup_free uint8_t *record = NULL;
	uint32_t mark = 0;
	size_t size = 0;

	while (!(mark & LAST_FRAGMENT)) {
		uint8_t word[4], *more;
		size_t add;
		int r = wait_for(fd, POLLIN,
				 deadline_ns); /* also of one that never stops sending */

		if (r == 0)
			r = transfer(fd, false, word, 4, deadline_ns, 0);
		if (r < 0)
			return r;
		memcpy(&mark, word, 4);
		mark = ntohl(mark);
		add = mark & ~LAST_FRAGMENT;
		if (add > CV_RPC_REPLY_MAX - size)
			return -EBADMSG;
		more = realloc(record, size + add + 1);
		if (!more)
			return -ENOMEM;
		record = more;
		r = transfer(fd, false, record + size, add, deadline_ns, 0);
		if (r < 0)
			return r;
		size += add;
	}
	*ret_record = cv_steal(&record);
	*ret_size = size;
	return 0;
}

int cv_rpc_call_blocking(int fd, uint32_t program, uint32_t version, uint32_t procedure,
			 const struct cv_cred *cred, const void *args, size_t args_size,
			 uint64_t deadline_ns, uint8_t **ret_reply, size_t *ret_size)
{
	cv_cleanup_free uint8_t *record = NULL;
	cv_cleanup_free uint8_t *call = malloc(HEAD_MAX + args_size);
	uint32_t xid, got_xid;
	const uint8_t *results;
	size_t size = 0, n;
	int r;

	if (!call)
		return -ENOMEM;
	if (getrandom(&xid, sizeof(xid), 0) < 0)
		xid = (uint32_t)cv_now_ns();
	n = put_header(call, xid, program, version, procedure, cred);
	memcpy(call + n, args, args_size);
	n += args_size;
	(void)put_u32(call, LAST_FRAGMENT | (uint32_t)(n - 4));
	r = transfer(fd, true, call, n, deadline_ns, 0);
	if (r < 0)
		return r;
	/* A call that was replayed several times may be answered as often. */
	do {
		free(cv_steal(&record));
		r = receive_record(fd, deadline_ns, &record, &size);
		if (r < 0)
			return r;
		r = cv_rpc_parse_reply(record, size, &got_xid, &results, ret_size);
	} while (r != -EBADMSG && got_xid != xid);
	if (r < 0)
		return r;
	memmove(record, results, *ret_size);
	*ret_reply = cv_steal(&record);
	return 0;
}

/* ---- a predecessor's calls ---- */

struct replaying {
	const struct cv_left *left;
	uint64_t due_ns; /* to be sent (again) */
	uint64_t pause_ns;
	bool sent;
	unsigned busy; /* how often the server has said that it is at it */
};

struct replays {
	int fd;
	uint64_t timeout_ns;
	struct replaying *list;
	size_t count;
	/* When the server has answered one, or taken something new: not only that it still is at
	 * it, which could go on for ever. */
	uint64_t life_ns;
	int queued; /* bytes that it had not acknowledged then */
};

static uint32_t recorded_xid(const struct cv_replay *replay)
{
	uint32_t xid;

	memcpy(&xid, replay->call + 4, 4);
	return ntohl(xid);
}

/*
 * The time ran out amid a record: whatever comes next on the connection would be taken for the rest
 * of it. Between two records it leaves the connection as it is.
 */
static int amid_record(int r)
{
	return r == -ETIMEDOUT ? -ECONNABORTED : r;
}

/* A long one takes its time on a slow line. */
static int send_piece(const struct replays *rs, const void *data, size_t size)
{
	return transfer(rs->fd, true, (void *)(uintptr_t)data, size, cv_now_ns() + rs->timeout_ns,
			rs->timeout_ns);
}

static int send_recorded(const struct replays *rs, const struct cv_left *left)
{
	static const uint8_t zero[4];
	const struct cv_replay *call = left->replay;
	const struct cv_replay_data *data = &call->data;
	int r = wait_for(rs->fd, POLLOUT, cv_now_ns() + rs->timeout_ns);

	if (r < 0)
		return r;
	r = send_piece(rs, call->call, call->call_size - data->tail);
	if (r == 0 && data->size)
		r = send_piece(rs, left->data + data->at, data->size);
	if (r == 0)
		r = send_piece(rs, zero, padding(data->size));
	if (r == 0)
		r = send_piece(rs, call->call + call->call_size - data->tail, data->tail);
	return amid_record(r);
}

/* Sends what is due. *ret_next_ns: when the next one is. */
static int send_due(struct replays *rs, uint64_t *ret_next_ns)
{
	*ret_next_ns = rs->life_ns + rs->timeout_ns;
	for (size_t i = 0; i < rs->count; i++) {
		struct replaying *p = &rs->list[i];

		/* Some servers drop a retransmission while they work on the first one; but not
		 * while they answer others. */
		if (p->sent && p->busy == 0 && p->due_ns < rs->life_ns + REPLAY_AGAIN_NS)
			p->due_ns = rs->life_ns + REPLAY_AGAIN_NS;
		if (p->due_ns <= cv_now_ns()) {
			int r = send_recorded(rs, p->left);

			if (r < 0)
				return r;
			if (!p->sent)
				rs->life_ns = cv_now_ns();
			p->sent = true;
			p->due_ns = cv_now_ns() + p->pause_ns;
			p->pause_ns *= 2;
		}
		if (p->due_ns < *ret_next_ns)
			*ret_next_ns = p->due_ns;
	}
	return 0;
}

static void note_took(struct replays *rs, size_t i, bool took)
{
	struct replaying *p = &rs->list[i];
	uint64_t now = cv_now_ns();

	if (took) {
		*p = rs->list[--rs->count];
		rs->life_ns = now;
		return;
	}
	p->due_ns = now + REPLAY_BUSY_NS * ++p->busy;
}

/* On a slow line what is in the kernel's hands takes its time. */
static bool is_taking(struct replays *rs)
{
	int queued = 0;

	if (ioctl(rs->fd, SIOCOUTQ, &queued) < 0 || queued == 0 || queued >= rs->queued)
		return false;
	rs->queued = queued;
	rs->life_ns = cv_now_ns();
	return true;
}

static int replay_all(struct replays *rs, bool (*took)(struct cv_replay *replay, int status,
						       const uint8_t *reply, size_t size))
{
	while (rs->count) {
		cv_cleanup_free uint8_t *record = NULL;
		const uint8_t *results = NULL;
		size_t size, results_size = 0;
		uint64_t next_ns = 0;
		uint32_t xid;
		int r = send_due(rs, &next_ns), status;

		if (r == 0)
			r = wait_for(rs->fd, POLLIN, next_ns);
		if (r == -ETIMEDOUT &&
		    (cv_now_ns() < rs->life_ns + rs->timeout_ns || is_taking(rs)))
			continue;
		if (r == -ETIMEDOUT)
			return (int)rs->count;
		if (r == 0)
			r = amid_record(receive_record(rs->fd, cv_now_ns() + rs->timeout_ns,
						       &record, &size));
		if (r < 0)
			return r;
		status = cv_rpc_parse_reply(record, size, &xid, &results, &results_size);
		if (status == -EBADMSG)
			return status;
		for (size_t i = 0; i < rs->count; i++) {
			struct cv_replay *replay = rs->list[i].left->replay;

			if (recorded_xid(replay) != xid)
				continue;
			note_took(rs, i, took(replay, status, results, results_size));
			break;
		}
	}
	return 0;
}

/* As it was built: the length that it begins with is that of all its parts. */
static bool is_whole(const struct cv_left *left)
{
	const struct cv_replay *r = left->replay;
	size_t data = r->data.size + padding(r->data.size);
	uint32_t mark;

	memcpy(&mark, r->call, 4);
	return ntohl(mark) == (LAST_FRAGMENT | (uint32_t)(r->call_size - 4 + data));
}

int cv_rpc_replay_blocking(int fd, uint16_t port, const struct cv_replays *replays,
			   uint64_t timeout_ns,
			   bool (*took)(struct cv_replay *replay, int status, const uint8_t *reply,
					size_t size))
{
	cv_cleanup_free struct replaying *list = calloc(replays->count + 1, sizeof(*list));
	struct replays rs = { .fd = fd, .timeout_ns = timeout_ns, .list = list };
	int left_over = 0;

	if (!list)
		return -ENOMEM;
	/* Data at last: a server remembers a limited number of calls, and that a name has been
	 * changed must not be forgotten for writes that it has never seen. */
	for (int data = 0; data < 2; data++) {
		int r;

		rs.life_ns = cv_now_ns();
		rs.queued = INT_MAX;
		rs.count = 0;
		for (size_t i = 0; i < replays->count; i++) {
			const struct cv_left *left = &replays->list[i];

			if (!cv_left_is_open(left) || (left->replay->data.size > 0) != data)
				continue;
			if (!is_whole(left) || (port && left->replay->port != port))
				left_over++;
			else
				list[rs.count++] =
					(struct replaying){ .left = left,
							    .pause_ns = REPLAY_AGAIN_NS };
		}
		r = replay_all(&rs, took);
		if (r < 0)
			return r;
		left_over += r;
	}
	return left_over;
}

const uint8_t *cv_rpc_replayed(const struct cv_rpc *rpc, const struct cv_replay *replay,
			       uint64_t id, uint32_t procedure, const struct cv_cred *cred,
			       const void *args, size_t args_size, const struct cv_rpc_part *parts,
			       size_t count, size_t *ret_size)
{
	uint8_t call[HEAD_MAX + CV_REPLAY_CALL_MAX];
	size_t n;

	if (!replay || replay->id != id || !replay->call_size || !replay->reply_size ||
	    args_size > CV_REPLAY_CALL_MAX || replay->call_size > sizeof(replay->call) ||
	    replay->reply_size > sizeof(replay->reply))
		return NULL;
	n = put_header(call, recorded_xid(replay), rpc->config.program, rpc->config.version,
		       procedure, cred);
	memcpy(call + n, args, args_size);
	if (n + args_size != replay->call_size)
		return NULL;
	(void)put_u32(call, LAST_FRAGMENT | (uint32_t)(n + args_size - 4));
	for (size_t i = 0; i < count; i++) {
		if (parts[i].at + parts[i].size <= args_size)
			memcpy(call + n + parts[i].at, replay->call + n + parts[i].at,
			       parts[i].size);
	}
	if (memcmp(call, replay->call, n + args_size) != 0)
		return NULL;
	*ret_size = replay->reply_size;
	return replay->reply;
}

/* ---- connecting ---- */

/* Ports below 1024 tell the server that root asks; many exports insist on it ("secure"). */
static void bind_reserved(int fd, int family, uint16_t prefer)
{
	static atomic_uint next; /* where to start looking */
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} addr;
	int one = 1;

	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	for (int i = 0; i < RESERVED_PORTS; i++) {
		unsigned nth = atomic_fetch_add(&next, 1) + (unsigned)getpid();
		uint16_t port = i == 0 && prefer ? prefer : (uint16_t)(1023 - nth % RESERVED_PORTS);

		memset(&addr, 0, sizeof(addr));
		addr.sa.sa_family = (sa_family_t)family;
		if (family == AF_INET6)
			addr.v6.sin6_port = htons(port);
		else
			addr.v4.sin_port = htons(port);
		if (bind(fd, &addr.sa, family == AF_INET6 ? sizeof(addr.v6) : sizeof(addr.v4)) == 0)
			return;
		if (errno != EADDRINUSE)
			return; /* not privileged: any port must do */
	}
}

enum source { ANY_PORT, RESERVED };

static int connect_one(const struct addrinfo *ai, enum source source, uint16_t prefer_port,
		       uint64_t deadline_ns)
{
	cv_cleanup_close int fd =
		socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
	int err = 0, r;
	socklen_t n = sizeof(err);

	if (fd < 0)
		return -errno;
	if (source == RESERVED) {
		/* However it ends, also with its process: what has not left is dropped, so that
		 * nothing arrives behind its repetition; and there is no TIME_WAIT, for the port
		 * is wanted again. */
		(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		bind_reserved(fd, ai->ai_family, prefer_port);
	}
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
		if (errno != EINPROGRESS)
			return -errno;
		r = wait_for(fd, POLLOUT, deadline_ns);
		if (r < 0)
			return r;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0)
			return -errno;
		if (err)
			return -err;
	}
	return cv_steal_fd(&fd);
}

static int connect_port(const struct addrinfo *list, uint16_t port, enum source source,
			uint16_t prefer_port, uint64_t deadline_ns)
{
	int r = -EHOSTUNREACH;

	for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
		if (ai->ai_family == AF_INET6)
			((struct sockaddr_in6 *)(void *)ai->ai_addr)->sin6_port = htons(port);
		else if (ai->ai_family == AF_INET)
			((struct sockaddr_in *)(void *)ai->ai_addr)->sin_port = htons(port);
		else
			continue;
		r = connect_one(ai, source, prefer_port, deadline_ns);
		/* A source port may be bound and still not connected from: an old connection of
		 * it to the same server lingers. Others will do. */
		for (int i = 0; i < 16 && r == -EADDRNOTAVAIL && source == RESERVED; i++)
			r = connect_one(ai, source, 0, deadline_ns);
		if (r == -EADDRNOTAVAIL && source == RESERVED)
			r = connect_one(ai, ANY_PORT, 0, deadline_ns);
		if (r >= 0)
			return r;
	}
	return r;
}

/* ---- names ---- */

/* A getaddrinfo() under a deadline: its thread may outlive the caller, and then frees this. */
struct resolve {
	char host[256];
	pthread_mutex_t lock; /* protects the rest */
	pthread_cond_t ready;
	bool finished, abandoned;
	int result, saved_errno;
	struct addrinfo *list;
};

static void resolve_free(struct resolve *r)
{
	if (r->list)
		freeaddrinfo(r->list);
	(void)pthread_cond_destroy(&r->ready);
	(void)pthread_mutex_destroy(&r->lock);
	free(r);
}

static void *resolve_main(void *arg)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct resolve *r = arg;
	struct addrinfo *list = NULL;
	int result = getaddrinfo(r->host, NULL, &hints, &list);
	int saved = errno;
	bool abandoned;

	{
		CV_SCOPED_LOCK(&r->lock);
		r->result = result;
		r->saved_errno = saved;
		r->list = result == 0 ? list : NULL;
		r->finished = true;
		abandoned = r->abandoned;
		(void)pthread_cond_signal(&r->ready);
	}
	if (abandoned)
		resolve_free(r);
	return NULL;
}

/* Signals are the main thread's; a helper must not take them away from it. */
static int start_thread(void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, before;
	int r;

	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, &attr, run, arg);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	(void)pthread_attr_destroy(&attr);
	return -r;
}

static int resolve(const char *host, uint64_t deadline_ns, struct addrinfo **ret_list,
		   struct cv_err *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC,
				  .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICHOST };
	struct timespec until = { .tv_sec = (time_t)(deadline_ns / 1000000000),
				  .tv_nsec = (long)(deadline_ns % 1000000000) };
	pthread_condattr_t attr;
	struct resolve *r;
	int result, saved;

	if (getaddrinfo(host, NULL, &hints, ret_list) == 0)
		return 0;
	r = calloc(1, sizeof(*r));
	if (!r)
		return cv_fail(err, ENOMEM, "resolving %s: out of memory", host);
	(void)cv_strcpy(r->host, sizeof(r->host), host);
	(void)pthread_mutex_init(&r->lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&r->ready, &attr);
	(void)pthread_condattr_destroy(&attr);
	result = start_thread(resolve_main, r);
	if (result < 0) {
		resolve_free(r);
		return cv_fail(err, result, "resolving %s: no thread: %s", host,
			       cv_strerror(result));
	}
	{
		CV_SCOPED_LOCK(&r->lock);
		while (!r->finished &&
		       pthread_cond_timedwait(&r->ready, &r->lock, &until) != ETIMEDOUT)
			;
		if (!r->finished) {
			r->abandoned = true;
			return cv_fail(err, ETIMEDOUT,
				       "resolving %s: the name server does not answer", host);
		}
		result = r->result;
		saved = r->saved_errno;
		*ret_list = r->list;
		r->list = NULL;
	}
	resolve_free(r);
	if (result == EAI_SYSTEM)
		return cv_fail(err, saved, "resolving %s: %s", host, cv_strerror(saved));
	if (result != 0)
		return cv_fail(err, EHOSTUNREACH, "resolving %s: %s; is the name right?", host,
			       gai_strerror(result));
	return 0;
}

static int ask_portmapper(const struct addrinfo *list, const struct cv_rpc_config *c,
			  uint64_t deadline_ns, uint16_t *ret_port, struct cv_err *err)
{
	cv_cleanup_close int fd = connect_port(list, PORTMAP_PORT, ANY_PORT, 0, deadline_ns);
	cv_cleanup_free uint8_t *reply = NULL;
	uint8_t args[16], *p = args;
	struct cv_xdr x;
	size_t size;
	uint32_t port;
	int r;

	if (fd < 0)
		return cv_fail(
			err, fd,
			"asking the portmapper of %s (TCP port 111): %s; if the server has none, "
			"give the option port= (and mountport=)",
			c->host, cv_strerror(fd));
	p = put_u32(p, c->program);
	p = put_u32(p, c->version);
	p = put_u32(p, IPPROTO_TCP);
	p = put_u32(p, 0);
	r = cv_rpc_call_blocking(fd, PORTMAP_PROGRAM, 2, PORTMAP_GETPORT, NULL, args,
				 (size_t)(p - args), deadline_ns, &reply, &size);
	if (r < 0)
		return cv_fail(err, r, "asking the portmapper of %s: %s", c->host, cv_strerror(r));
	x = cv_xdr_init(reply, size);
	port = cv_xdr_u32(&x);
	if (x.bad || port == 0 || port > 65535)
		return cv_fail(
			err, ECONNREFUSED,
			"the portmapper of %s knows no RPC program %u version %u over TCP: is the "
			"NFS server running, with NFSv3?",
			c->host, c->program, c->version);
	*ret_port = (uint16_t)port;
	return 0;
}

static void free_addrinfo(struct addrinfo **list)
{
	if (*list)
		freeaddrinfo(*list);
}

int cv_rpc_dial(const struct cv_rpc_config *c, uint16_t prefer_port, uint64_t deadline_ns,
		uint16_t *ret_port, struct cv_err *err)
{
	__attribute__((cleanup(free_addrinfo))) struct addrinfo *list = NULL;
	uint16_t port = c->port;
	int fd, r;

	(void)cv_step("resolving the host name");
	r = resolve(c->host, deadline_ns, &list, err);
	if (r < 0)
		return r;
	if (c->connect_ms && cv_now_ns() + c->connect_ms * 1000000ull < deadline_ns)
		deadline_ns = cv_now_ns() + c->connect_ms * 1000000ull;
	if (!port) {
		(void)cv_step("asking the portmapper");
		r = ask_portmapper(list, c, deadline_ns, &port, err);
		if (r < 0)
			return r;
	}
	(void)cv_step("connecting");
	fd = connect_port(list, port, RESERVED, prefer_port, deadline_ns);
	if (fd < 0)
		return cv_fail(
			err, fd, "connecting to %s port %u: %s%s", c->host, port, cv_strerror(fd),
			fd == -ECONNREFUSED ? "; is the server running, and is this its port?"
			: fd == -ETIMEDOUT  ? "; is the server up, and no firewall in between?"
					    : "");
	if (ret_port)
		*ret_port = port;
	return fd;
}

/* ---- queue ---- */

static void call_unlink(struct cv_rpc *rpc, struct cv_rpc_call *call)
{
	if (call->prev)
		call->prev->next = call->next;
	else
		rpc->first = call->next;
	if (call->next)
		call->next->prev = call->prev;
	else
		rpc->last = call->prev;
	if (rpc->unsent == call)
		rpc->unsent = call->next;
	rpc->count--;
	if (call->on_wire)
		rpc->wire--;
	call->next = call->prev = NULL;
}

static void call_complete(struct cv_rpc *rpc, struct cv_rpc_call *call, int status,
			  const uint8_t *reply, size_t size)
{
	call_unlink(rpc, call);
	free(call->head);
	call->head = NULL;
	call->done(call, status, reply, size);
}

static void schedule_flush(struct cv_rpc *rpc)
{
	if (rpc->watch.fd >= 0)
		cv_loop_defer(rpc->loop, &rpc->flush);
}

static void insert_last(struct cv_rpc *rpc, struct cv_rpc_call *call)
{
	call->next = NULL;
	call->prev = rpc->last;
	if (rpc->last)
		rpc->last->next = call;
	else
		rpc->first = call;
	rpc->last = call;
	if (!rpc->unsent)
		rpc->unsent = call;
}

/* Before everything that has not been begun, so that a full window does not hold it back. */
static void insert_next(struct cv_rpc *rpc, struct cv_rpc_call *call)
{
	struct cv_rpc_call *after = rpc->unsent;

	while (after && after->on_wire)
		after = after->next;
	if (!after) {
		insert_last(rpc, call);
		return;
	}
	call->next = after;
	call->prev = after->prev;
	if (after->prev)
		after->prev->next = call;
	else
		rpc->first = call;
	after->prev = call;
	if (rpc->unsent == after)
		rpc->unsent = call;
}

int cv_rpc_submit(struct cv_rpc *rpc, struct cv_rpc_call *call, uint32_t procedure,
		  const struct cv_cred *cred, const void *args, size_t args_size)
{
	size_t pad = padding(call->data_size);
	size_t n;

	call->head = malloc(HEAD_MAX + args_size);
	if (!call->head)
		return -ENOMEM;
	call->xid = rpc->next_xid++;
	n = put_header(call->head, call->xid, rpc->config.program, rpc->config.version, procedure,
		       cred);
	if (args_size)
		memcpy(call->head + n, args, args_size);
	n += args_size;
	(void)put_u32(call->head, LAST_FRAGMENT | (uint32_t)(n - 4 + call->data_size + pad));
	if (call->replay) {
		const struct cv_replay_data data = { .at = (uint32_t)call->data_at,
						     .size = (uint32_t)call->data_size,
						     .tail = (uint32_t)call->tail_size };

		cv_replay_keep_call(call->replay, call->replay_id, rpc->source_port, call->head, n,
				    &data);
	}
	call->head_size = n - call->tail_size;
	call->sent = 0;
	call->resent = false;
	call->on_wire = false;
	call->deadline_ns = cv_now_ns() + rpc->config.timeout_ms * 1000000ull;
	if (call == &rpc->ping)
		insert_next(rpc, call);
	else
		insert_last(rpc, call);
	if (rpc->count++ == 0)
		rpc->heard_ns = cv_loop_now_ns(rpc->loop); /* silence begins with the question */
	if (!rpc->tick.index)
		(void)cv_timer_set(rpc->loop, &rpc->tick, TICK_MS);
	schedule_flush(rpc);
	return 0;
}

/* ---- connection ---- */

static void start_dial(struct cv_rpc *rpc);
static void ping(struct cv_rpc *rpc);

static void note_error(struct cv_rpc *rpc, const char *text)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)cv_strcpy(rpc->last_error, sizeof(rpc->last_error), text);
	rpc->last_error_s = (uint64_t)now.tv_sec;
}

/* With jitter, so that many clients of a server that returns do not come all at once. */
static void dial_later(struct cv_rpc *rpc)
{
	unsigned base = rpc->backoff_ms ? rpc->backoff_ms : BACKOFF_MIN_MS;

	(void)cv_timer_set(rpc->loop, &rpc->retry,
			   base / 2 + (unsigned)rand_r(&rpc->seed) % (base / 2 + 1));
	rpc->backoff_ms = base * 2 < BACKOFF_MAX_MS ? base * 2 : BACKOFF_MAX_MS;
}

/* Nothing of a lost connection is kept but the calls themselves. */
static void disconnect(struct cv_rpc *rpc, const char *why)
{
	uint64_t lived_ns = cv_now_ns() - rpc->attached_ns;
	bool greeted = rpc->greeted;
	int fd = rpc->watch.fd;

	if (fd < 0)
		return;
	cv_loop_remove(rpc->loop, &rpc->watch);
	cv_loop_undefer(rpc->loop, &rpc->flush);
	(void)close(fd);
	rpc->rx_start = rpc->rx_end = rpc->rx_body = 0;
	rpc->rx_fragments = 0;
	if (rpc->pinging) {
		rpc->pinging = false;
		call_unlink(rpc, &rpc->ping);
		free(rpc->ping.head);
		rpc->ping.head = NULL;
	}
	for (struct cv_rpc_call *c = rpc->first; c; c = c->next) {
		if (c->sent)
			c->resent = true;
		c->sent = 0;
		c->on_wire = false;
	}
	rpc->unsent = rpc->first;
	rpc->wire = 0;
	note_error(rpc, why);
	/* Not only for debugging: from here on the volume's users wait. */
	if (greeted)
		cv_notice("connection to %s lost (%s), reconnecting", rpc->config.host, why);
	rpc->greeted = false;
	/* A server that takes connections and drops them is not to be stormed. */
	if (rpc->answered)
		rpc->backoff_ms = BACKOFF_MIN_MS;
	/* A line may be so slow that the first answer takes longer than the timeout; to drop it
	 * and send all again each time would get nowhere. */
	if (rpc->answered)
		rpc->patience = 1;
	else if (greeted && lived_ns >= rpc->config.timeout_ms * 1000000ull &&
		 rpc->patience < PATIENCE_MAX)
		rpc->patience *= 2;
	if (rpc->answered && lived_ns >= SETTLED_NS)
		start_dial(rpc);
	else
		dial_later(rpc);
}

static void rpc_ready(struct cv_watch *watch, uint32_t events);

static void socket_options(int fd, uint64_t timeout_ms)
{
	int on = 1, idle = 15, interval = 5, probes = 3;
	unsigned user = (unsigned)timeout_ms;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user, sizeof(user));
}

uint16_t cv_rpc_source_port(int fd)
{
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} addr;
	socklen_t n = sizeof(addr);

	if (getsockname(fd, &addr.sa, &n) < 0)
		return 0;
	return ntohs(addr.sa.sa_family == AF_INET6 ? addr.v6.sin6_port : addr.v4.sin_port);
}

static int attach(struct cv_rpc *rpc, int fd)
{
	socket_options(fd, rpc->config.timeout_ms * rpc->patience);
	rpc->source_port = cv_rpc_source_port(fd);
	for (struct cv_rpc_call *c = rpc->first; c; c = c->next) {
		if (c->replay && c->replay->id == c->replay_id)
			c->replay->port = rpc->source_port;
	}
	rpc->attached_ns = rpc->heard_ns = cv_now_ns();
	rpc->sent_bytes = rpc->acked_bytes = 0;
	rpc->pinged = rpc->answered = false;
	return cv_loop_add(rpc->loop, &rpc->watch, fd, EPOLLIN);
}

static void dial_free(struct dial *d)
{
	cv_close_fd(&d->fd);
	(void)pthread_mutex_destroy(&d->lock);
	free(d);
}

static void dialled(struct cv_posted *posted)
{
	struct dial *d = cv_container_of(posted, struct dial, posted);
	struct cv_rpc *rpc;

	{
		/* The thread is done with the lock, too, before this goes away. */
		CV_SCOPED_LOCK(&d->lock);
		rpc = d->rpc;
	}
	if (!rpc) { /* freed in the meantime */
		dial_free(d);
		return;
	}
	rpc->dial = NULL;
	if (d->fd >= 0 && attach(rpc, d->fd) == 0) {
		d->fd = -1;
		ping(rpc);
	} else {
		note_error(rpc, d->err.text);
		cv_debug("reconnecting: %s", d->err.text);
		dial_later(rpc);
	}
	dial_free(d);
}

static void *dial_main(void *arg)
{
	struct dial *d = arg;
	bool abandoned;

	d->fd = cv_rpc_dial(&d->config, d->prefer_port, cv_now_ns() + DIAL_MS * 1000000ull, NULL,
			    &d->err);
	{
		CV_SCOPED_LOCK(&d->lock);
		abandoned = d->abandoned;
		if (!abandoned) {
			d->is_posted = true;
			cv_loop_post(d->loop, &d->posted);
		}
	}
	if (abandoned)
		dial_free(d);
	return NULL;
}

static void start_dial(struct cv_rpc *rpc)
{
	struct dial *d;

	if (rpc->dial)
		return;
	d = calloc(1, sizeof(*d));
	if (!d) {
		dial_later(rpc);
		return;
	}
	d->posted.run = dialled;
	d->rpc = rpc;
	d->config = rpc->config;
	d->config.connect_ms = GREETING_MS;
	if (++rpc->tries % PATIENT_EVERY == 0)
		d->config.connect_ms *= rpc->tries < PATIENCE_TRIES ? rpc->tries : PATIENCE_TRIES;
	rpc->greeting_ns = d->config.connect_ms * 1000000ull;
	d->loop = rpc->loop;
	d->prefer_port = rpc->source_port < 1024 ? rpc->source_port : 0;
	d->fd = -1;
	(void)pthread_mutex_init(&d->lock, NULL);
	rpc->dial = d;
	if (start_thread(dial_main, d) < 0) {
		rpc->dial = NULL;
		dial_free(d);
		dial_later(rpc);
	}
}

static void retry_fire(struct cv_timer *timer)
{
	start_dial(cv_container_of(timer, struct cv_rpc, retry));
}

/* ---- sending ---- */

static size_t call_size(const struct cv_rpc_call *c)
{
	return c->head_size + c->data_size + padding(c->data_size) + c->tail_size;
}

/* Appends what is left of the call. Returns the number of iovecs used. */
static int gather(const struct cv_rpc_call *c, struct iovec *iov)
{
	static const uint8_t zero[4];
	size_t skip = c->sent, pad = padding(c->data_size);
	const struct iovec parts[PARTS] = {
		{ .iov_base = c->head, .iov_len = c->head_size },
		{ .iov_base = (void *)(uintptr_t)c->data, .iov_len = c->data_size },
		{ .iov_base = (void *)(uintptr_t)zero, .iov_len = pad },
		{ .iov_base = c->head + c->head_size, .iov_len = c->tail_size },
	};
	int n = 0;

	for (int i = 0; i < PARTS; i++) {
		if (skip >= parts[i].iov_len) {
			skip -= parts[i].iov_len;
			continue;
		}
		iov[n].iov_base = (uint8_t *)parts[i].iov_base + skip;
		iov[n++].iov_len = parts[i].iov_len - skip;
		skip = 0;
	}
	return n;
}

/* Sends calls until the socket is full or the window is. Returns 0 or -errno (connection lost). */
static int send_calls(struct cv_rpc *rpc)
{
	while (rpc->unsent) {
		struct iovec iov[GATHER];
		struct msghdr msg = { .msg_iov = iov };
		size_t wire = rpc->wire;
		int n = 0;
		ssize_t sent;

		for (struct cv_rpc_call *c = rpc->unsent; c && n + PARTS <= GATHER; c = c->next) {
			if (c != &rpc->ping && !rpc->greeted)
				break;
			if (!c->on_wire && wire++ >= CV_RPC_WINDOW && c != &rpc->ping)
				break;
			n += gather(c, iov + n);
		}
		if (n == 0)
			break; /* window full: the next reply makes room */
		msg.msg_iovlen = (size_t)n;
		sent = sendmsg(rpc->watch.fd, &msg, MSG_NOSIGNAL);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN)
				return cv_loop_modify(rpc->loop, &rpc->watch, EPOLLIN | EPOLLOUT);
			return -errno;
		}
		rpc->sent_bytes += (uint64_t)sent;
		while (sent > 0) {
			struct cv_rpc_call *c = rpc->unsent;
			size_t left = call_size(c) - c->sent;
			size_t part = (size_t)sent < left ? (size_t)sent : left;

			if (!c->on_wire) {
				c->on_wire = true;
				c->wire_ns = cv_loop_now_ns(rpc->loop);
				rpc->wire++;
			}
			c->sent += part;
			sent -= (ssize_t)part;
			if (part < left)
				break;
			rpc->unsent = c->next;
		}
	}
	return cv_loop_modify(rpc->loop, &rpc->watch, EPOLLIN);
}

static void flush(struct cv_deferred *deferred)
{
	struct cv_rpc *rpc = cv_container_of(deferred, struct cv_rpc, flush);
	int r;

	if (rpc->watch.fd < 0)
		return;
	r = send_calls(rpc);
	if (r < 0)
		disconnect(rpc, cv_strerror(r));
}

/* ---- receiving ---- */

static struct cv_rpc_call *find_call(struct cv_rpc *rpc, uint32_t xid)
{
	/* Replies come nearly in order, and at most CV_RPC_WINDOW calls are on the wire. */
	for (struct cv_rpc_call *c = rpc->first; c; c = c->next) {
		if (c->xid == xid)
			return c->on_wire ? c : NULL;
	}
	return NULL;
}

static int handle_record(struct cv_rpc *rpc, const uint8_t *record, size_t size)
{
	const uint8_t *results = NULL;
	struct cv_rpc_call *call;
	size_t results_size = 0;
	uint32_t xid;
	int status = cv_rpc_parse_reply(record, size, &xid, &results, &results_size);

	if (status == -EBADMSG)
		return status;
	call = find_call(rpc, xid);
	/* A call not even sent cannot have an answer: the stream is not what we think. */
	if (!call || call->sent < call_size(call))
		return call ? -EBADMSG : 0; /* unknown: the answer to a call given up (soft) */
	rpc->answered = rpc->greeted;
	call_complete(rpc, call, status, results, results_size);
	return 0;
}

/* Handles every complete record in the buffer. */
static int handle_received(struct cv_rpc *rpc)
{
	for (;;) {
		size_t have = rpc->rx_end - rpc->rx_start;
		uint8_t *p = rpc->rx + rpc->rx_start;
		size_t size, total;
		uint32_t mark;
		int r;

		if (have < rpc->rx_body + 4)
			return 0;
		memcpy(&mark, p + rpc->rx_body, 4);
		mark = ntohl(mark);
		size = mark & ~LAST_FRAGMENT;
		total = rpc->rx_body + size;
		if (total > CV_RPC_REPLY_MAX)
			return -EBADMSG;
		if (have < total + 4)
			return 0;
		/* Fragments become one piece: what was gathered moves up over the mark. */
		if (rpc->rx_body)
			memmove(p + 4, p, rpc->rx_body);
		p += 4;
		rpc->rx_start += 4;
		if (!(mark & LAST_FRAGMENT)) {
			if (++rpc->rx_fragments > FRAGMENTS_MAX)
				return -EBADMSG;
			rpc->rx_body = total;
			continue;
		}
		rpc->rx_body = 0;
		rpc->rx_fragments = 0;
		rpc->rx_start += total;
		r = handle_record(rpc, p, total);
		if (r < 0)
			return r;
		if (rpc->watch.fd < 0)
			return 0; /* a completion has ended the connection */
	}
}

/* How much to ask for: a large record to its end, and little beyond, so that it need not be moved.
 */
static size_t receive_size(struct cv_rpc *rpc)
{
	size_t have = rpc->rx_end - rpc->rx_start, want = RX_SLOP;

	if (have >= rpc->rx_body + 4) {
		uint32_t mark;

		memcpy(&mark, rpc->rx + rpc->rx_start + rpc->rx_body, 4);
		want = rpc->rx_body + 4 + (ntohl(mark) & ~LAST_FRAGMENT) - have;
		if (want < RX_SLOP)
			want = RX_SLOP;
	}
	if (have == 0)
		rpc->rx_start = rpc->rx_end = 0;
	if (RX_SIZE - rpc->rx_end < want) {
		memmove(rpc->rx, rpc->rx + rpc->rx_start, have);
		rpc->rx_start = 0;
		rpc->rx_end = have;
	}
	if (RX_SIZE - rpc->rx_end < want)
		want = RX_SIZE - rpc->rx_end;
	return want;
}

static int receive(struct cv_rpc *rpc)
{
	for (size_t turn = 0; turn < TURN_BYTES;) {
		size_t want = receive_size(rpc);
		ssize_t n = recv(rpc->watch.fd, rpc->rx + rpc->rx_end, want, MSG_DONTWAIT);
		int r;

		if (n == 0)
			return -ECONNRESET;
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return errno == EAGAIN ? 0 : -errno;
		}
		rpc->rx_end += (size_t)n;
		rpc->heard_ns = cv_loop_now_ns(rpc->loop);
		rpc->pinged = false;
		turn += (size_t)n;
		r = handle_received(rpc);
		if (r < 0 || rpc->watch.fd < 0)
			return r;
		if ((size_t)n < want)
			return 0; /* the socket is empty: spare the EAGAIN */
	}
	return 0;
}

static void rpc_ready(struct cv_watch *watch, uint32_t events)
{
	struct cv_rpc *rpc = cv_container_of(watch, struct cv_rpc, watch);
	int r = 0;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		r = receive(rpc);
	if (r == 0 && rpc->watch.fd >= 0 && rpc->unsent)
		schedule_flush(rpc);
	if (r < 0)
		disconnect(rpc, r == -EBADMSG ? "malformed reply" : cv_strerror(r));
}

/* ---- time ---- */

static void ping_done(struct cv_rpc_call *call, int status, const uint8_t *reply, size_t size)
{
	struct cv_rpc *rpc = cv_container_of(call, struct cv_rpc, ping);

	(void)reply;
	(void)size;
	rpc->pinging = false;
	if (rpc->greeted || status == -ECANCELED)
		return;
	rpc->greeted = true; /* whatever it says */
	rpc->tries = 0;
	rpc->reconnects++;
	cv_notice("connected to %s again, %zu calls go out again", rpc->config.host, rpc->count);
	schedule_flush(rpc);
}

/* A busy server is silent, too; one that is there answers NULL, from another of its threads. */
static void ping(struct cv_rpc *rpc)
{
	if (rpc->pinging || rpc->pinged)
		return;
	memset(&rpc->ping, 0, sizeof(rpc->ping));
	rpc->ping.done = ping_done;
	rpc->pinged = true;
	if (cv_rpc_submit(rpc, &rpc->ping, 0, NULL, NULL, 0) == 0)
		rpc->pinging = true;
}

/*
 * Bytes on their way to a server over a slow line are life, too: it acknowledges them. Not the last
 * of them: the kernel of a server that hangs takes a small call at once.
 */
static void look_for_life(struct cv_rpc *rpc, uint64_t now)
{
	int queued = 0;
	uint64_t acked;

	if (ioctl(rpc->watch.fd, SIOCOUTQ, &queued) < 0)
		return;
	acked = rpc->sent_bytes - (uint64_t)queued;
	if (acked > rpc->acked_bytes && (queued > 0 || rpc->unsent))
		rpc->heard_ns = now;
	rpc->acked_bytes = acked;
}

/* Why the connection is of no use any more; NULL: it is. */
static const char *verdict(struct cv_rpc *rpc, uint64_t now)
{
	const uint64_t timeout_ns = rpc->config.timeout_ms * 1000000ull * rpc->patience;
	uint64_t silent_ns = now > rpc->heard_ns ? now - rpc->heard_ns : 0;
	const struct cv_rpc_call *oldest = rpc->first;

	if (rpc->greeted ? silent_ns >= timeout_ns : now >= rpc->attached_ns + rpc->greeting_ns)
		return "the server does not answer";
	if (silent_ns >= timeout_ns / 2)
		ping(rpc);
	/* Servers may lose a call under pressure while the connection lives on. */
	if (oldest->on_wire && now > oldest->wire_ns &&
	    now - oldest->wire_ns >= FORGOTTEN * timeout_ns)
		return "the server has forgotten a call";
	return NULL;
}

static void time_out_soft(struct cv_rpc *rpc, uint64_t now)
{
	for (;;) {
		struct cv_rpc_call *c = rpc->first;

		if (c == &rpc->ping)
			c = c->next; /* out of order, and nobody waits for it */
		if (!c || c->deadline_ns > now)
			return;
		/* One that is partly sent must be finished, or the stream is broken. */
		if (c->sent && c->sent < call_size(c))
			disconnect(rpc, "timed out in the middle of a call");
		call_complete(rpc, c, -ETIMEDOUT, NULL, 0);
	}
}

static void tick(struct cv_timer *timer)
{
	struct cv_rpc *rpc = cv_container_of(timer, struct cv_rpc, tick);
	uint64_t now = cv_loop_now_ns(rpc->loop);

	if (rpc->watch.fd >= 0 && rpc->count) {
		const char *why;

		look_for_life(rpc, now);
		why = verdict(rpc, now);
		if (why)
			disconnect(rpc, why);
	}
	if (rpc->config.soft)
		time_out_soft(rpc, now);
	if (rpc->count && !rpc->tick.index)
		(void)cv_timer_set(rpc->loop, &rpc->tick, TICK_MS);
}

/* ---- life ---- */

int cv_rpc_new(struct cv_loop *loop, const struct cv_rpc_config *config, int fd,
	       struct cv_rpc **ret_rpc)
{
	struct cv_rpc *rpc = calloc(1, sizeof(*rpc));
	int r;

	if (!rpc)
		return -ENOMEM;
	rpc->rx = malloc(RX_SIZE);
	if (!rpc->rx) {
		free(rpc);
		return -ENOMEM;
	}
	rpc->loop = loop;
	rpc->config = *config;
	rpc->patience = 1;
	rpc->watch = (struct cv_watch)CV_WATCH_INIT(rpc_ready);
	rpc->flush = (struct cv_deferred)CV_DEFERRED_INIT(flush);
	rpc->retry = (struct cv_timer)CV_TIMER_INIT(retry_fire);
	rpc->tick = (struct cv_timer)CV_TIMER_INIT(tick);
	if (getrandom(&rpc->next_xid, sizeof(rpc->next_xid), 0) < 0)
		rpc->next_xid = (uint32_t)cv_now_ns();
	rpc->seed = rpc->next_xid;
	rpc->greeted = true; /* it is what mounting has asked already */
	r = attach(rpc, fd);
	if (r < 0) {
		free(rpc->rx);
		free(rpc);
		return r;
	}
	*ret_rpc = rpc;
	return 0;
}

void cv_rpc_free(struct cv_rpc *rpc)
{
	int fd;

	if (!rpc)
		return;
	cv_timer_cancel(rpc->loop, &rpc->retry);
	cv_timer_cancel(rpc->loop, &rpc->tick);
	cv_loop_undefer(rpc->loop, &rpc->flush);
	fd = rpc->watch.fd;
	cv_loop_remove(rpc->loop, &rpc->watch);
	cv_close_fd(&fd);
	while (rpc->first)
		call_complete(rpc, rpc->first, -ECANCELED, NULL, 0);
	cv_timer_cancel(rpc->loop, &rpc->tick);
	if (rpc->dial) {
		/* Posted: the loop runs it, perhaps in this very turn, and then it frees itself. */
		CV_SCOPED_LOCK(&rpc->dial->lock);
		rpc->dial->rpc = NULL;
		rpc->dial->abandoned = !rpc->dial->is_posted;
	}
	free(rpc->rx);
	free(rpc);
}

void cv_rpc_stats(const struct cv_rpc *rpc, struct cv_rpc_stats *ret)
{
	ret->connected = rpc->greeted;
	ret->reconnects = rpc->reconnects;
	ret->in_flight = rpc->count;
	(void)cv_strcpy(ret->last_error, sizeof(ret->last_error), rpc->last_error);
	ret->last_error_s = rpc->last_error_s;
	ret->heard_ns = rpc->heard_ns;
}

void cv_rpc_provoke(struct cv_rpc *rpc)
{
	if (rpc->watch.fd >= 0)
		ping(rpc);
}
