/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"

#define GAP	   2
#define SHRINK_MIN 8

struct cv_cell {
	char *text; /* owned; NULL: out of memory */
	enum cv_colour colour;
	bool note;
};

bool cv_colour_wanted(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(STDOUT_FILENO) && !(no && *no) && term && !cv_str_eq(term, "dumb");
}

enum cv_colour cv_colour_of_state(enum cv_volume_state state)
{
	switch (state) {
	case CV_VOLUME_OK:
		return CV_GREEN;
	case CV_VOLUME_CONNECTING:
	case CV_VOLUME_WAITING:
	case CV_VOLUME_DRAINING:
		return CV_YELLOW;
	case CV_VOLUME_HUNG:
	case CV_VOLUME_FAILED:
	case CV_VOLUME_BROKEN:
		return CV_RED;
	case CV_VOLUME_IDLE:
	case CV_VOLUME_STATES:
		break;
	}
	return CV_DIM;
}

const char *cv_colour_on(bool wanted, enum cv_colour colour)
{
	static const char *const codes[] = {
		[CV_PLAIN] = "",	 [CV_BOLD] = "\033[1m",	   [CV_DIM] = "\033[2m",
		[CV_GREEN] = "\033[32m", [CV_YELLOW] = "\033[33m", [CV_RED] = "\033[31m",
	};

	return wanted ? codes[colour] : "";
}

const char *cv_colour_off(bool wanted)
{
	return wanted ? "\033[0m" : "";
}

int cv_terminal_width(void)
{
	struct winsize size;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/* ---- tables ---- */

void cv_table_init(struct cv_table *t, const struct cv_column *columns, size_t count)
{
	memset(t, 0, sizeof(*t));
	t->columns = columns;
	t->column_count = count < CV_TABLE_COLUMNS ? count : CV_TABLE_COLUMNS;
}

void cv_table_release(struct cv_table *t)
{
	for (size_t i = 0; i < t->count; i++)
		free(t->cells[i].text);
	free(t->cells);
	memset(t, 0, sizeof(*t));
}

__attribute__((format(printf, 4, 0))) static void
append(struct cv_table *t, bool note, enum cv_colour colour, const char *fmt, va_list ap)
{
	char *text;

	if (t->count == t->room) {
		size_t room = t->room ? t->room * 2 : 64;
		struct cv_cell *bigger = realloc(t->cells, room * sizeof(*bigger));

		if (!bigger) {
			t->failed = true;
			return;
		}
		t->cells = bigger;
		t->room = room;
	}
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	t->cells[t->count++] = (struct cv_cell){ .text = text, .colour = colour, .note = note };
}

void cv_table_add(struct cv_table *t, enum cv_colour colour, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	append(t, false, colour, fmt, ap);
	va_end(ap);
}

void cv_table_note(struct cv_table *t, enum cv_colour colour, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	append(t, true, colour, fmt, ap);
	va_end(ap);
}

/* Characters; each takes one column here. */
static size_t width_of(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

static const char *text_of(const struct cv_cell *cell)
{
	return cell->text ? cell->text : "?";
}

static void measure(const struct cv_table *t, int terminal, size_t widths[CV_TABLE_COLUMNS])
{
	size_t column = 0, total = 0;

	for (size_t i = 0; i < t->column_count; i++)
		widths[i] = width_of(t->columns[i].title);
	for (size_t i = 0; i < t->count; i++) {
		size_t w = width_of(text_of(&t->cells[i]));

		if (t->cells[i].note)
			continue;
		if (w > widths[column])
			widths[column] = w;
		column = (column + 1) % t->column_count;
	}
	for (size_t i = 0; i < t->column_count; i++)
		total += widths[i] + (i ? GAP : 0);
	for (size_t i = 0; terminal > 0 && i < t->column_count; i++) {
		size_t over = total > (size_t)terminal ? total - (size_t)terminal : 0;
		size_t spare = widths[i] > SHRINK_MIN ? widths[i] - SHRINK_MIN : 0;

		if (!t->columns[i].shrink)
			continue;
		widths[i] -= over < spare ? over : spare;
		total -= over < spare ? over : spare;
	}
}

/* At most max characters, the last one "…" if some are missing. */
static void put_text(FILE *out, const char *text, size_t max)
{
	size_t have = width_of(text), n = 0;

	if (have <= max) {
		(void)fputs(text, out);
		return;
	}
	for (; *text; text++) {
		if (((unsigned char)*text & 0xc0) != 0x80 && ++n >= max)
			break;
		(void)fputc(*text, out);
	}
	(void)fputs("…", out);
}

static void put_cell(FILE *out, const struct cv_column *column, const char *text, size_t width,
		     bool last, const char *on, const char *off)
{
	size_t have = width_of(text);
	int pad = have < width ? (int)(width - have) : 0;

	if (column->right)
		(void)fprintf(out, "%*s", pad, "");
	(void)fputs(on, out);
	put_text(out, text, width);
	(void)fputs(off, out);
	if (!column->right && !last)
		(void)fprintf(out, "%*s", pad, "");
	(void)fputs(last ? "\n" : "  ", out);
}

void cv_table_print(const struct cv_table *t, FILE *out, bool colours, int width)
{
	size_t widths[CV_TABLE_COLUMNS];
	size_t column = 0;

	measure(t, width, widths);
	for (size_t i = 0; i < t->column_count; i++)
		put_cell(out, &t->columns[i], t->columns[i].title, widths[i],
			 i + 1 == t->column_count, cv_colour_on(colours, CV_BOLD),
			 cv_colour_off(colours));
	for (size_t i = 0; i < t->count; i++) {
		const struct cv_cell *cell = &t->cells[i];
		bool coloured = colours && cell->colour != CV_PLAIN;
		const char *on = cv_colour_on(coloured, cell->colour);

		if (cell->note) {
			(void)fprintf(out, "%*s%s%s%s\n", (int)widths[0] + GAP, "", on,
				      text_of(cell), cv_colour_off(coloured));
			continue;
		}
		put_cell(out, &t->columns[column], text_of(cell), widths[column],
			 column + 1 == t->column_count, on, cv_colour_off(coloured));
		column = (column + 1) % t->column_count;
	}
}

/* ---- numbers ---- */

static const char *scaled(double n, double base, const char *const *units, size_t count,
			  const char *space, char *buf)
{
	size_t unit = 0;

	while (unit + 1 < count && n >= base) {
		n /= base;
		unit++;
	}
	(void)snprintf(buf, CV_HUMAN, n < 10 && unit ? "%.1f%s%s" : "%.0f%s%s", n,
		       *units[unit] ? space : "", units[unit]);
	return buf;
}

const char *cv_human_bytes(double bytes, char *buf)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };

	return bytes < 0.5 ? strcpy(buf, "0")
			   : scaled(bytes, 1024, units, CV_ARRAY_SIZE(units), " ", buf);
}

const char *cv_human_number(double n, char *buf)
{
	static const char *const units[] = { "", "k", "M", "G", "T" };

	return scaled(n, 1000, units, CV_ARRAY_SIZE(units), "", buf);
}

const char *cv_human_us(double us, char *buf)
{
	static const char *const units[] = { "us", "ms", "s" };

	return us < 0.5 ? strcpy(buf, "-")
			: scaled(us, 1000, units, CV_ARRAY_SIZE(units), " ", buf);
}

const char *cv_human_age(int64_t seconds, char *buf)
{
	if (seconds < 0)
		(void)strcpy(buf, "-");
	else if (seconds < 120)
		(void)snprintf(buf, CV_HUMAN, "%ds", (int)seconds);
	else if (seconds < 7200)
		(void)snprintf(buf, CV_HUMAN, "%dm", (int)(seconds / 60));
	else if (seconds < 48 * 3600)
		(void)snprintf(buf, CV_HUMAN, "%dh", (int)(seconds / 3600));
	else
		(void)snprintf(buf, CV_HUMAN, "%lldd", (long long)(seconds / 86400));
	return buf;
}
