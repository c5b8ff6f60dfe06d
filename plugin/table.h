/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables and numbers for people: columns as wide as their contents, colours where the terminal
 * wants them, one column that gives way when the terminal is narrow.
 */
#ifndef CV_PLUGIN_TABLE_H
#define CV_PLUGIN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "plugin/message.h"

enum cv_colour { CV_PLAIN, CV_BOLD, CV_DIM, CV_GREEN, CV_YELLOW, CV_RED };

/* How a state is shown. */
enum cv_colour cv_colour_of_state(enum cv_volume_state state);
/* Standard output is a terminal, NO_COLOR is not set and TERM is not dumb. */
bool cv_colour_wanted(void);
/* Escape sequences, or "" when not wanted. */
const char *cv_colour_on(bool wanted, enum cv_colour colour);
const char *cv_colour_off(bool wanted);
/* Columns of the terminal on standard output; 0: it is none. */
int cv_terminal_width(void);

struct cv_column {
	const char *title;
	bool right;  /* numbers */
	bool shrink; /* gives way in a narrow terminal */
};

#define CV_TABLE_COLUMNS 16

struct cv_table {
	const struct cv_column *columns; /* borrowed */
	size_t column_count;		 /* at most CV_TABLE_COLUMNS */
	size_t count, room;		 /* cells */
	struct cv_cell *cells;		 /* owned */
	bool failed;			 /* out of memory: what is there is printed */
};

void cv_table_init(struct cv_table *table, const struct cv_column *columns, size_t count);
void cv_table_release(struct cv_table *table);
/* The next cell; after the last column a new row begins. */
__attribute__((format(printf, 3, 4))) void
cv_table_add(struct cv_table *table, enum cv_colour colour, const char *fmt, ...);
/* A line of its own below the last row, indented as far as the second column. */
__attribute__((format(printf, 3, 4))) void
cv_table_note(struct cv_table *table, enum cv_colour colour, const char *fmt, ...);
/* width: 0 for as wide as it takes. */
void cv_table_print(const struct cv_table *table, FILE *out, bool colours, int width);

#define CV_HUMAN 32
/* "0", "12.3 KiB"; "850 us", "1.2 ms", "-" for 0; "45s", "3m", "2h", "5d", "-" for a negative
 * number. buf has CV_HUMAN bytes and is returned. */
const char *cv_human_bytes(double bytes, char *buf);
const char *cv_human_us(double us, char *buf);
const char *cv_human_number(double n, char *buf); /* "3", "1.2k", "45M" */
const char *cv_human_age(int64_t seconds, char *buf);

#endif
