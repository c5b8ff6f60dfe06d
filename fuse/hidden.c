/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open file whose last name goes away must stay readable and writable until its last close.
 * Where the engine cannot keep it by itself (NFS has no opens; an SFTP handle does not survive a
 * reconnect), the file is renamed instead of unlinked, into a directory at the mount's root that
 * nobody sees, and removed at the last close. When that directory cannot be made or used (read-only
 * root, squashed root), it stays in its own directory under a name nobody sees.
 */
#include "fuse/fs.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/fs.h> /* RENAME_NOREPLACE */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/log.h"

static const struct cv_cred root_cred;

static struct cv_node *victim_of(struct cv_request *r, struct cv_node *node)
{
	if (!node || !node->open_count)
		return NULL;
	/* Another hard link keeps it as well. */
	if (r->fs->nodes.by_handle && node->record->nlink > 1)
		return NULL;
	cv_node_hold(node);
	return node;
}

/* Is a file open that may have names we do not know of? */
static bool links_are_open(const struct cv_fs *fs)
{
	for (uint32_t i = 0, left = fs->opens_count; i < fs->opens_size && left; i++) {
		const struct cv_open *open = fs->opens[i];

		if (!open)
			continue;
		left--;
		if (!open->record->is_dir && !(open->node->record->flags & CV_NODE_HIDDEN) &&
		    (open->node->record->nlink > 1 ||
		     (open->node->record->flags & CV_NODE_NAMELESS)))
			return true;
	}
	return false;
}

static void looked(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_node *node = NULL;

	if (result == 0)
		node = cv_node_by_handle(&r->fs->nodes, &op->entry.handle);
	if (node) {
		node->record->nlink = op->entry.attr.nlink;
		r->victim = victim_of(r, node);
	}
	r->resume(r); /* a failure is for the operation itself to meet, and to report */
}

void cv_hidden_find(struct cv_request *r, struct cv_node *dir, const char *name,
		    void (*done)(struct cv_request *r))
{
	struct cv_fs *fs = r->fs;
	struct cv_node *node = cv_node_find(&fs->nodes, dir->id, name);
	struct cv_object obj;

	/* A predecessor may have taken the name away already, by which it would be found. */
	if (r->repeated && r->slot->hiding) {
		r->victim = cv_node_get(&fs->nodes, r->slot->hiding);
		if (r->victim)
			cv_node_hold(r->victim);
		done(r);
		return;
	}
	/* A node knows one of its names, and the number of them as it was when somebody asked:
	 * where that matters, the server is asked whose name this is. */
	if (!(fs->mount.info.features & CV_FEAT_UNLINK_OPEN) && fs->nodes.by_handle &&
	    (node ? node->open_count && node->record->nlink > 1 : links_are_open(fs)) &&
	    cv_fs_object(fs, dir, 0, &obj) == 0) {
		r->resume = done;
		cv_request_op(r, looked);
		cv_lookup(&fs->mount, &r->op, &obj, name);
		return;
	}
	if (!(fs->mount.info.features & CV_FEAT_UNLINK_OPEN))
		r->victim = victim_of(r, node);
	done(r);
}

/* r->resume continues with hide_move() or reports; its argument travels in the request. */
typedef void (*hide_done_fn)(struct cv_request *r, int result);

struct hide {
	struct cv_op op;
	struct cv_request *r;
	struct cv_node *dir;	/* held by r */
	struct cv_node *target; /* where it goes; held while there is one */
	struct cv_node *victim;
	hide_done_fn done;
	bool linked;
	bool link_failed;
	bool again; /* the hidden directory was gone, and is made anew */
};

static void hide_move(struct hide *h);
static void make_dir(struct hide *h);

/* In h->dir: of what is unlinked, or replaced by a rename. It moves when an interrupted request
 * gives its slot back, to be filled with another. */
static const char *name_of(const struct hide *h)
{
	return h->r->node2 ? h->r->name2 : h->r->name;
}

static void set_target(struct hide *h)
{
	struct cv_nodes *t = &h->r->fs->nodes;
	struct cv_node *target = h->r->hide.fallback ? h->dir : h->r->fs->hidden_dir;

	if (target)
		cv_node_hold(target);
	if (h->target)
		cv_node_drop(t, h->target);
	h->target = target;
}

static void remove_dir_if_unused(struct cv_fs *fs);

/* One that a predecessor has hidden already was counted when we took over. */
static void mark_hidden(struct cv_fs *fs, struct cv_node *victim)
{
	if (victim->record->flags & CV_NODE_HIDDEN)
		fs->hidden_count--;
	victim->record->flags |= CV_NODE_HIDDEN;
	cv_node_touch(&fs->nodes, victim);
}

static void hide_finish(struct hide *h, int result)
{
	struct cv_request *r = h->r;
	hide_done_fn done = h->done;

	if (result == 0) {
		/* By path the object is found under the new name from now on; with keep_name only
		 * after the rename that follows has taken the old one. */
		r->hide.keep_name = h->linked;
		if (!h->linked) {
			cv_node_rename(&r->fs->nodes, h->victim, h->target->id, r->hide.name);
			mark_hidden(r->fs, h->victim);
		}
	}
	if (h->target)
		cv_node_drop(&r->fs->nodes, h->target);
	free(h);
	if (result < 0) {
		r->fs->hidden_count--;
		remove_dir_if_unused(r->fs);
	}
	done(r, result);
}

/* What was the last file's directory may just have been removed: then it is made once more. */
static bool dir_gone(struct hide *h, ssize_t result)
{
	struct cv_fs *fs = h->r->fs;

	if ((result != -ENOENT && result != -ESTALE) || h->r->hide.fallback || h->again)
		return false;
	h->again = true;
	h->link_failed = false;
	if (fs->hidden_dir && fs->hidden_dir == h->target) {
		fs->hidden_dir = NULL;
		cv_node_drop(&fs->nodes, h->target);
	}
	return true;
}

static void hide_moved(struct cv_op *op, ssize_t result)
{
	struct hide *h = cv_container_of(op, struct hide, op);

	if (dir_gone(h, result)) {
		make_dir(h);
		return;
	}
	if (result < 0 && h->linked) {
		h->linked = false;
		h->link_failed = true;
		hide_move(h); /* no hard links here: rename it away, then */
		return;
	}
	if (result < 0 && !h->r->hide.fallback) {
		h->r->hide.fallback = true;
		h->link_failed = false;
		hide_move(h);
		return;
	}
	hide_finish(h, (int)result);
}

static void hide_move(struct hide *h)
{
	struct cv_request *r = h->r;
	struct cv_fs *fs = r->fs;
	struct cv_object from, to;
	int err;

	/* The same when a successor does it again. */
	(void)snprintf(r->hide.name, sizeof(r->hide.name), "%s-%016" PRIx64 "-%" PRIx64,
		       CV_HIDDEN_NAME, fs->shm.state->id, r->unique);
	cv_op_init(&h->op, hide_moved, r->hide.fallback ? &r->cred : &root_cred);
	cv_request_name_op(r, &h->op);
	set_target(h);
	err = h->target ? cv_fs_object(fs, h->target, 1, &to) : -ESTALE;
	h->linked = r->hide.keep_name && !h->link_failed;
	if (err == 0)
		err = cv_fs_object(fs, h->linked ? h->victim : h->dir, 0, &from);
	if (err < 0) {
		hide_finish(h, err);
		return;
	}
	if (h->linked)
		cv_link(&fs->mount, &h->op, &from, &to, r->hide.name);
	else
		cv_rename(&fs->mount, &h->op, &from, name_of(h), &to, r->hide.name, 0);
}

static void dir_done(struct cv_op *op, ssize_t result)
{
	struct hide *h = cv_container_of(op, struct hide, op);
	struct cv_fs *fs = h->r->fs;
	struct cv_node *root = cv_node_get(&fs->nodes, CV_NODE_ROOT);
	struct cv_object obj;

	if (result == -EEXIST && !h->r->hide.made_dir) {
		h->r->hide.made_dir = true;
		cv_op_init(op, dir_done, &root_cred);
		if (cv_fs_object(fs, root, 0, &obj) == 0) {
			cv_lookup(&fs->mount, op, &obj, CV_HIDDEN_NAME);
			return;
		}
	}
	if (result == -ENOENT && !h->again) { /* removed between the two */
		h->again = true;
		make_dir(h);
		return;
	}
	if (result == 0 && !fs->hidden_dir && S_ISDIR(op->entry.attr.mode)) {
		fs->hidden_dir = cv_node_enter(&fs->nodes, root->id, CV_HIDDEN_NAME, &op->entry);
		if (fs->hidden_dir)
			cv_node_hold(fs->hidden_dir);
	}
	if (!fs->hidden_dir)
		h->r->hide.fallback = true;
	hide_move(h);
}

static void make_dir(struct hide *h)
{
	struct cv_fs *fs = h->r->fs;
	struct cv_object obj;

	if (fs->hidden_dir) {
		hide_move(h);
		return;
	}
	h->r->hide.made_dir = false;
	cv_op_init(&h->op, dir_done, &root_cred);
	if (cv_fs_object(fs, cv_node_get(&fs->nodes, CV_NODE_ROOT), 0, &obj) < 0) {
		h->r->hide.fallback = true;
		hide_move(h);
		return;
	}
	cv_mkdir(&fs->mount, &h->op, &obj, CV_HIDDEN_NAME, S_IFDIR | 0700);
}

void cv_hidden_hide(struct cv_request *r, struct cv_node *dir, struct cv_node *victim,
		    bool keep_name, hide_done_fn done)
{
	struct cv_fs *fs = r->fs;
	struct hide *h = calloc(1, sizeof(*h));

	if (!h) {
		done(r, -ENOMEM);
		return;
	}
	h->r = r;
	h->dir = dir;
	h->victim = victim;
	h->done = done;
	if (r->slot)
		r->slot->hiding = victim->id;
	cv_shm_barrier();
	fs->hidden_count++; /* from here on the hidden directory stays */
	r->hide.keep_name = keep_name;
	r->hide.fallback = false;
	make_dir(h);
}

void cv_hidden_taken(struct cv_request *r, struct cv_node *victim)
{
	struct cv_fs *fs = r->fs;
	struct cv_node *dir = r->hide.fallback ? r->node2 ? r->node2 : r->node : fs->hidden_dir;

	if (r->hide.keep_name) {
		cv_node_rename(&fs->nodes, victim, dir->id, r->hide.name);
		mark_hidden(fs, victim);
	}
	/* It may have been closed meanwhile. */
	if (victim->open_count == 0)
		cv_hidden_remove(fs, victim, &r->cred);
}

/* ---- our own operations: nobody waits for them ---- */

static void removed(struct cv_fs *fs, struct cv_node *node)
{
	node->record->flags &= ~(uint32_t)(CV_NODE_HIDDEN | CV_NODE_LEAVING);
	fs->hidden_count--;
	cv_node_unlink(&fs->nodes, node);
}

static void own_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0 && result != -ENOENT && r->then_dir)
		cv_warning("the hidden file '%s' stays on the server: %s",
			   r->victim ? r->victim->record->name : CV_HIDDEN_NAME,
			   cv_strerror((int)result));
	if (r->victim && r->then_dir)
		removed(r->fs, r->victim);
	else if (r->victim && r->victim != r->fs->hidden_dir) /* not made again meanwhile */
		cv_node_unlink(&r->fs->nodes, r->victim);
	if (r->then_dir)
		remove_dir_if_unused(r->fs);
	cv_request_end(r);
}

/* victim: the node that goes with it, or NULL. */
static void remove_name(struct cv_fs *fs, struct cv_node *dir, const char *name,
			const struct cv_cred *cred, bool is_dir, struct cv_node *victim);

/* After the last hidden file, not beside it: calls may overtake each other. */
static void remove_dir_if_unused(struct cv_fs *fs)
{
	struct cv_node *dir = fs->hidden_dir;

	if (fs->hidden_count || !dir)
		return;
	fs->hidden_dir = NULL;
	remove_name(fs, cv_node_get(&fs->nodes, CV_NODE_ROOT), CV_HIDDEN_NAME, &root_cred, true,
		    dir);
	cv_node_drop(&fs->nodes, dir);
}

static void remove_name(struct cv_fs *fs, struct cv_node *dir, const char *name,
			const struct cv_cred *cred, bool is_dir, struct cv_node *victim)
{
	struct cv_request *r = cv_request_internal(fs);
	struct cv_object obj;

	if (!r)
		return;
	r->cred = *cred;
	r->then_dir = !is_dir;
	if (victim) {
		cv_node_hold(victim);
		r->victim = victim;
	}
	cv_request_op(r, own_done);
	if (cv_fs_object(fs, dir, 0, &obj) < 0) {
		own_done(&r->op, -ESTALE);
		return;
	}
	if (is_dir)
		cv_rmdir(&fs->mount, &r->op, &obj, name);
	else
		cv_unlink(&fs->mount, &r->op, &obj, name);
}

static void name_again(struct cv_request *r);

static void named_again(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_fs *fs = r->fs;

	if (result == -EINVAL && r->hide.no_replace) {
		r->hide.no_replace = false; /* not here; the name was free a moment ago */
		name_again(r);
		return;
	}
	if (result < 0) {
		/* Nobody removes it: it is somebody's file. */
		cv_error("rename failed, and what it should have replaced did not get its name "
			 "back: "
			 "%s is %s/%s now (%s)",
			 r->name2, r->hide.fallback ? "." : CV_HIDDEN_NAME, r->hide.name,
			 cv_strerror((int)result));
	} else {
		cv_node_rename(&fs->nodes, r->victim, r->node2->id, r->name2);
		cv_node_touch(&fs->nodes, r->victim);
		cv_node_touch(&fs->nodes, r->node2);
		fs->hidden_count--;
		remove_dir_if_unused(fs);
	}
	cv_reply_err(r, r->hide.error);
}

static void name_again(struct cv_request *r)
{
	struct cv_fs *fs = r->fs;
	struct cv_node *dir = r->hide.fallback ? r->node2 : fs->hidden_dir;
	struct cv_object from, to;
	int err = dir ? cv_fs_object(fs, dir, 0, &from) : -ESTALE;

	if (err == 0)
		err = cv_fs_object(fs, r->node2, 1, &to);
	cv_op_init(&r->op, named_again, r->hide.fallback ? &r->cred : &root_cred);
	if (err < 0)
		named_again(&r->op, err);
	else
		cv_rename(&fs->mount, &r->op, &from, r->hide.name, &to, r->name2,
			  r->hide.no_replace ? RENAME_NOREPLACE : 0);
}

void cv_hidden_undo(struct cv_request *r, int err)
{
	struct cv_fs *fs = r->fs;
	struct cv_node *dir = r->hide.fallback ? r->node2 : fs->hidden_dir;

	if (r->hide.keep_name) {
		fs->hidden_count--;
		if (dir)
			remove_name(fs, dir, r->hide.name, r->hide.fallback ? &r->cred : &root_cred,
				    false, NULL);
		cv_reply_err(r, err);
		return;
	}
	/* From here on it is not removed at its last close, or by a successor. */
	r->victim->record->flags &= ~(uint32_t)CV_NODE_HIDDEN;
	r->hide.error = err;
	r->hide.no_replace = true;
	r->must_finish = true;
	name_again(r);
}

void cv_hidden_remove(struct cv_fs *fs, struct cv_node *node, const struct cv_cred *cred)
{
	struct cv_node *dir = cv_node_get(&fs->nodes, node->record->parent);

	if (node->record->flags & CV_NODE_LEAVING)
		return;
	if (!dir || (node->record->flags & CV_NODE_NAMELESS)) {
		removed(fs, node); /* somebody else has */
		remove_dir_if_unused(fs);
		return;
	}
	/* The record stays until the server has done it: a successor would try again. */
	node->record->flags |= CV_NODE_LEAVING;
	remove_name(fs, dir, node->record->name, dir == fs->hidden_dir ? &root_cred : cred, false,
		    node);
}

void cv_hidden_restore(struct cv_fs *fs)
{
	fs->hidden_dir = cv_node_find(&fs->nodes, CV_NODE_ROOT, CV_HIDDEN_NAME);
	if (fs->hidden_dir)
		cv_node_hold(fs->hidden_dir);
	for (uint32_t id = CV_NODE_ROOT; id < fs->nodes.top; id++) {
		struct cv_node *node = cv_node_get(&fs->nodes, id);

		if (!node || !(node->record->flags & CV_NODE_HIDDEN))
			continue;
		fs->hidden_count++;
		node->record->flags &= ~(uint32_t)CV_NODE_LEAVING;
		if (node->open_count == 0)
			cv_hidden_remove(fs, node, &root_cred);
	}
	/* Made, and not noted yet; it stays if somebody has something in it. */
	if (!fs->hidden_dir && !(fs->mount.info.features & CV_FEAT_UNLINK_OPEN))
		remove_name(fs, cv_node_get(&fs->nodes, CV_NODE_ROOT), CV_HIDDEN_NAME, &root_cred,
			    true, NULL);
	remove_dir_if_unused(fs);
}
