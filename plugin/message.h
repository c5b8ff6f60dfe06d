/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire format of the volume plugin protocol, and nothing but the format: requests in, answers
 * out, and, for the command line, answers in. Accepts what dockerd, Podman and people with curl
 * send. Thread-safe; no global state.
 */
#ifndef CV_PLUGIN_MESSAGE_H
#define CV_PLUGIN_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "config/counters.h"
#include "config/dict.h"
#include "config/err.h"
#include "plugin/rates.h"

#define CV_BODY_MAX	(1u << 20) /* bytes of a request */
#define CV_CONTENT_TYPE "application/vnd.docker.plugins.v1.2+json"
#define CV_MOUNT_ID_MAX 1024 /* bytes; dockerd and Podman send 64 */

struct cv_request {
	char *name;  /* owned; NULL: absent or null */
	char *id;    /* owned; NULL: absent or null */
	char *unset; /* owned; NULL: absent; names of options, for /cvol/update */
	struct cv_dict opts;
};
#define CV_REQUEST_INIT                                                                            \
	{                                                                                          \
		NULL, NULL, NULL, CV_DICT_INIT                                                     \
	}

/*
 * Keys are compared without case (Go does so too), unknown ones ignored; an empty body is an empty
 * object. Option values that are numbers or booleans are taken as their text.
 * 0, or -EBADMSG with the reason; *ret is untouched then.
 */
int cv_request_parse(const char *body, size_t size, struct cv_request *ret, struct cv_err *err);
void cv_request_release(struct cv_request *request); /* wipes opts */
#define cv_cleanup_request __attribute__((cleanup(cv_request_release)))

/* Who a mount is counted for. */
struct cv_holder {
	char *id; /* owned: dockerd's, or Podman's one for everything */
	unsigned mounts;
	bool stale; /* of a dockerd before today's */
};
enum cv_volume_state {
	CV_VOLUME_IDLE,	      /* not mounted */
	CV_VOLUME_CONNECTING, /* being mounted */
	CV_VOLUME_OK,
	CV_VOLUME_WAITING,  /* the server does not answer; mounted, or mounting is tried again */
	CV_VOLUME_HUNG,	    /* mounted; the worker shows no sign of life */
	CV_VOLUME_DRAINING, /* nobody uses it; written data is still on its way */
	CV_VOLUME_FAILED,   /* in use, but its worker is gone */
	CV_VOLUME_BROKEN,   /* its state file cannot be read */
	CV_VOLUME_STATES
};
const char *cv_volume_state_name(enum cv_volume_state state);

/* What is shown of a volume. Never a secret. */
struct cv_view {
	char *name;	  /* owned */
	char *mountpoint; /* owned; never empty */
	char *source;	  /* owned */
	char *backend;	  /* owned; the engine's name: nfs, sftp, dir, mem */
	char *server;	  /* owned; "" while not mounted */
	char *error;	  /* owned; the last one, "" if none */
	int64_t error_s;  /* seconds, CLOCK_REALTIME; 0: unknown */
	enum cv_volume_state state;
	int64_t since;	 /* seconds, CLOCK_REALTIME: the beginning of the state; 0: unknown */
	int64_t created; /* seconds, CLOCK_REALTIME */
	unsigned mounts;
	struct cv_holder *holders; /* owned */
	size_t holder_count;
	bool own;     /* made by `cvol mount`; name is its directory */
	pid_t worker; /* 0: none */
	struct cv_dict options;
	bool counted; /* counters are there: it is, or was, mounted */
	struct cv_counters counters;
	struct cv_rates rates; /* zero when nothing is known */
};
/* A volume in a list: what dockerd asks for, and asks often. */
struct cv_listed {
	char *name;	  /* owned */
	char *mountpoint; /* owned; never empty */
	int64_t created;  /* seconds, CLOCK_REALTIME */
};
void cv_listed_free(struct cv_listed *list, size_t count);

void cv_view_release(struct cv_view *view);
void cv_views_free(struct cv_view *views, size_t count);

/* Answers; NULL when out of memory. Caller frees. text may be any bytes. */
char *cv_message_err(const char *text); /* {"Err": text} */
char *cv_message_activate(void);
char *cv_message_capabilities(const char *scope);
char *cv_message_mountpoint(const char *path);
char *cv_message_volume(const struct cv_view *view);
char *cv_message_list(const struct cv_listed *list, size_t count);
/* Everything that is known: docs/status.md. daemon may be NULL: there is none. */
char *cv_message_status(const struct cv_view *views, size_t count, const struct cv_dict *daemon);
/* {"key": ["line", …], "Err": ""} */
char *cv_message_lines(const char *key, char *const *lines, size_t count);
char *cv_message_text(const char *text); /* {"Text": text, "Err": ""}; see cv_answer_text() */
/* For the command line: {"Name": name, "Unset": unset, "Opts": opts}; NULL: absent */
char *cv_message_request(const char *name, const char *unset, const struct cv_dict *opts);

/* The Text of an answer, owned by the caller; NULL when there is none. */
char *cv_answer_text(const char *body);
/* The Err of an answer, owned by the caller; NULL when there is none. Not JSON: its first line. */
char *cv_answer_err(const char *body);
/* What cv_message_status(), _list() or _volume() wrote; 0 or -EBADMSG. Caller: cv_views_free(). */
int cv_answer_views(const char *body, struct cv_view **ret_views, size_t *ret_count);
/* What cv_message_lines() wrote, each with each(); 0 or -EBADMSG. */
int cv_answer_lines(const char *body, const char *key, void (*each)(void *ctx, const char *line),
		    void *ctx);
/* What cv_message_status() wrote about the daemon itself. */
int cv_answer_daemon(const char *body, struct cv_dict *ret);
/* The member of an answer, indented for people; NULL when absent. Caller frees. */
char *cv_answer_pretty(const char *body, const char *member);

#endif
