/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of ids that turn up while the volume is in use (idmap with names). A call that has such an
 * id in its answer waits for the name; a listing gives that entry without attributes instead. One
 * question is under way at a time, with all that came up meanwhile in the next one.
 */
#include "backends/sftp.h"

#include <errno.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/log.h"

static void go_on(struct sftp_engine *e, int error);

static void on_names(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_names *n = req->owner;
	struct sftp_engine *e = cv_container_of(n, struct sftp_engine, names);
	int r = reply->error;

	n->asking = false;
	if (r == 0)
		r = sftp_ids_learn(e->ids, &n->asked, reply->body, reply->size);
	if (r < 0 && reply->type) {
		/* Not any more, e.g. another server since a reconnect. */
		if (!n->said_no)
			cv_warning("sftp: the server does not tell names of users: ids that were "
				   "not seen before are shown as they are");
		n->said_no = true;
		sftp_ids_give_up(e->ids, &n->asked);
		r = 0;
	}
	go_on(e, r);
}

static void ask(struct sftp_engine *e)
{
	struct sftp_names *n = &e->names;

	if (n->asking || (n->next.users == 0 && n->next.groups == 0))
		return;
	n->asking = true;
	n->asked = n->next;
	n->next.users = n->next.groups = 0;
	n->body.size = 0;
	cv_sftp_put_ids(&n->body, n->asked.user, n->asked.users);
	cv_sftp_put_ids(&n->body, n->asked.group, n->asked.groups);
	memset(&n->req, 0, sizeof(n->req));
	n->req.type = CV_FXP_EXTENDED;
	n->req.ext = SFTP_EXT_NAMES;
	n->req.payload = n->body.data;
	n->req.length = n->body.size;
	n->req.owner = n;
	n->req.done = on_names;
	sftp_link_submit(&e->link, &n->req);
}

/* Those whose ids are known now; the others ask again. */
static void go_on(struct sftp_engine *e, int error)
{
	struct sftp_call *call = e->names.waiting;
	struct sftp_call *next;

	e->names.waiting = NULL;
	if (error) /* who wants the others asks again, if there is a connection */
		e->names.next.users = e->names.next.groups = 0;
	for (; call; call = next) {
		next = call->next_parked;
		if (error)
			sftp_call_end(call, error);
		else
			call->then(call);
	}
	ask(e);
}

void sftp_names_want(struct sftp_engine *e, const struct cv_sftp_attrs *attrs)
{
	sftp_question_add(&e->names.next, e->ids, attrs->uid, attrs->gid);
	ask(e);
}

void sftp_names_wait(struct sftp_call *call, const struct cv_sftp_attrs *attrs)
{
	struct sftp_engine *e = call->e;

	call->next_parked = e->names.waiting;
	e->names.waiting = call;
	sftp_names_want(e, attrs);
}

bool sftp_names_init(struct sftp_engine *e)
{
	struct sftp_question most = { .users = SFTP_ASK_MAX, .groups = SFTP_ASK_MAX };

	/* The buffer has its full size from here on. */
	cv_sftp_put_ids(&e->names.body, most.user, most.users);
	cv_sftp_put_ids(&e->names.body, most.group, most.groups);
	return !e->names.body.bad;
}

void sftp_names_release(struct sftp_engine *e)
{
	cv_sftp_out_release(&e->names.body);
}
