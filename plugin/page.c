/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/page.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/table.h"

#define REFRESH_S 5
#define POINTS	  120 /* of a curve; several samples each */
#define WIDTH	  600 /* of a graph, in its own units */
#define HEIGHT	  90

static const char style[] =
	":root{color-scheme:light "
	"dark;--fg:#1b1f24;--dim:#5b6570;--line:#d5dae0;--bg:#fff;--card:#f6f8fa;"
	"--a:#0b6bcb;--b:#c2410c;--ok:#15803d;--warn:#a16207;--bad:#b91c1c}"
	"@media(prefers-color-scheme:dark){:root{--fg:#e6e9ed;--dim:#98a2ad;--line:#343b44;--bg:#"
	"14171b;"
	"--card:#1c2127;--a:#60a5fa;--b:#fb923c;--ok:#4ade80;--warn:#facc15;--bad:#f87171}}"
	"body{margin:0 auto;max-width:76rem;padding:1rem;background:var(--bg);color:var(--fg);"
	"font:15px/1.45 system-ui,sans-serif}"
	"h1{font-size:1.3rem;margin:.2rem 0 1rem}h1 small{color:var(--dim);font-weight:400}"
	".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}"
	"th,td{padding:.35rem .7rem;text-align:left;border-bottom:1px solid var(--line);"
	"white-space:nowrap}th{color:var(--dim);font-weight:600}"
	".n{text-align:right;font-variant-numeric:tabular-nums}"
	"td.s{white-space:normal;overflow-wrap:anywhere;min-width:10rem}"
	".ok{color:var(--ok)}.warn{color:var(--warn)}.bad{color:var(--bad)}.dim{color:var(--dim)}"
	".err td{border-bottom:1px solid var(--line);white-space:normal;color:var(--bad)}"
	"section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;"
	"padding:.6rem 1rem;margin-top:1rem}h2{font-size:1rem;margin:0 0 "
	".4rem;overflow-wrap:anywhere}"
	".graphs{display:grid;grid-template-columns:repeat(auto-fit,minmax(18rem,1fr));gap:1rem}"
	"figure{margin:0}figcaption{color:var(--dim);font-size:.85rem}"
	"svg{width:100%;height:auto;display:block}.axis{stroke:var(--line)}"
	".a{stroke:var(--a);fill:none}.b{stroke:var(--b);fill:none}"
	"i.a{color:var(--a);font-style:normal}i.b{color:var(--b);font-style:normal}"
	"polyline{stroke-width:1.5;vector-effect:non-scaling-stroke}";

/* UTF-8 that means nothing to HTML. */
static void put_text(FILE *out, const char *text)
{
	bool utf8 = cv_str_is_utf8(text);

	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (strchr("<>&\"'", c))
			(void)fprintf(out, "&#%d;", c);
		else
			(void)fputc(c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8) ? '?' : c, out);
	}
}

static const char *class_of(enum cv_volume_state state)
{
	switch (cv_colour_of_state(state)) {
	case CV_GREEN:
		return "ok";
	case CV_YELLOW:
		return "warn";
	case CV_RED:
		return "bad";
	case CV_PLAIN:
	case CV_BOLD:
	case CV_DIM:
		break;
	}
	return "dim";
}

/* ---- the table ---- */

static void put_number(FILE *out, const char *text)
{
	(void)fprintf(out, "<td class=n>%s</td>", text);
}

static void put_row(FILE *out, const struct cv_view *v, int64_t now_s)
{
	const struct cv_rates *r = &v->rates;
	char buf[CV_HUMAN];

	(void)fputs("<tr><td class=s>", out);
	put_text(out, v->name);
	(void)fputs("</td><td class=s>", out);
	put_text(out, v->source);
	(void)fprintf(out, "</td><td class=%s>%s</td>", class_of(v->state),
		      cv_volume_state_name(v->state));
	put_number(out, cv_human_age(v->since ? now_s - v->since : -1, buf));
	(void)fprintf(out, "<td class=n>%u</td>", v->mounts);
	put_number(out, cv_human_us(r->latency_us > 0 ? r->latency_us : (double)v->counters.rtt_us,
				    buf));
	put_number(out, cv_human_number(r->operations, buf));
	put_number(out, cv_human_bytes(r->bytes_read, buf));
	put_number(out, cv_human_bytes(r->bytes_written, buf));
	(void)fprintf(out, "<td class='n%s'>%" PRIu64 "</td><td class=n>%" PRIu64 "</td></tr>\n",
		      cv_counters_errors(&v->counters) ? " bad" : "",
		      cv_counters_errors(&v->counters), v->counters.reconnects);
	if (!*v->error)
		return;
	(void)fputs("<tr class=err><td></td><td colspan=10>", out);
	if (v->error_s)
		(void)fprintf(out, "%s ago: ", cv_human_age(now_s - v->error_s, buf));
	put_text(out, v->error);
	(void)fputs("</td></tr>\n", out);
}

static void put_table(FILE *out, const struct cv_view *views, size_t count, int64_t now_s)
{
	(void)fputs("<div class=scroll><table><thead><tr><th>Volume<th>Source<th>State"
		    "<th class=n>Since<th class=n>Users<th class=n>Latency<th class=n>Ops/s"
		    "<th class=n>Read/s<th class=n>Write/s<th class=n>Errors<th class=n>Reconnects"
		    "</tr></thead><tbody>\n",
		    out);
	for (size_t i = 0; i < count; i++)
		put_row(out, &views[i], now_s);
	if (count == 0)
		(void)fputs("<tr><td colspan=11 class=dim>There are no volumes.</td></tr>\n", out);
	(void)fputs("</tbody></table></div>\n", out);
}

/* ---- graphs ---- */

typedef double (*measure)(const struct cv_rates *rates);

static double bytes_read(const struct cv_rates *r)
{
	return r->bytes_read;
}

static double bytes_written(const struct cv_rates *r)
{
	return r->bytes_written;
}

static double operations(const struct cv_rates *r)
{
	return r->operations;
}

static double latency(const struct cv_rates *r)
{
	return r->latency_us;
}

/* The ring is at the right edge of a graph that always spans the whole half hour. */
struct curve {
	double points[POINTS]; /* the largest of the samples in each; negative: none */
	double top;
};

static void make_curve(const struct cv_rates *samples, size_t count, measure what,
		       struct curve *ret)
{
	ret->top = 0;
	for (size_t p = 0; p < POINTS; p++)
		ret->points[p] = -1;
	for (size_t i = 0; i < count; i++) {
		size_t p = (CV_HISTORY_MAX - count + i) * POINTS / CV_HISTORY_MAX;
		double value = samples[i].interval_s > 0 ? what(&samples[i]) : -1;

		if (value > ret->points[p])
			ret->points[p] = value;
		if (value > ret->top)
			ret->top = value;
	}
}

static void put_curve(FILE *out, const struct curve *c, double top, const char *class)
{
	bool open = false;

	for (size_t p = 0; p < POINTS; p++) {
		if (c->points[p] < 0) { /* nothing is known: a gap */
			(void)fputs(open ? "\"/>" : "", out);
			open = false;
			continue;
		}
		if (!open)
			(void)fprintf(out, "<polyline class=%s points=\"", class);
		open = true;
		(void)fprintf(out, "%.0f,%.1f ", (double)p * WIDTH / (POINTS - 1),
			      HEIGHT - 2 - (top > 0 ? c->points[p] / top * (HEIGHT - 6) : 0));
	}
	(void)fputs(open ? "\"/>" : "", out);
}

/* second may be NULL. */
static void put_graph(FILE *out, const char *title, const char *top, const struct curve *first,
		      const struct curve *second)
{
	double scale = second && second->top > first->top ? second->top : first->top;

	(void)fprintf(out,
		      "<figure><figcaption>%s · highest %s</figcaption>"
		      "<svg viewBox=\"0 0 %d %d\" preserveAspectRatio=none role=img>"
		      "<title>last 30 minutes, highest %s</title>"
		      "<line class=axis x1=0 y1=%d x2=%d y2=%d />",
		      title, top, WIDTH, HEIGHT, top, HEIGHT - 1, WIDTH, HEIGHT - 1);
	put_curve(out, first, scale, "a");
	if (second)
		put_curve(out, second, scale, "b");
	(void)fputs("</svg></figure>\n", out);
}

static void put_graphs(FILE *out, const struct cv_view *v, struct cv_history *history)
{
	struct cv_rates samples[CV_HISTORY_MAX];
	size_t n = cv_history_get(history, v->name, samples, CV_HISTORY_MAX);
	struct curve one, two;
	char buf[CV_HUMAN];

	if (n == 0)
		return;
	(void)fputs("<section><h2>", out);
	put_text(out, v->name);
	(void)fputs("</h2><div class=graphs>\n", out);
	make_curve(samples, n, bytes_read, &one);
	make_curve(samples, n, bytes_written, &two);
	put_graph(out, "<i class=a>read</i> and <i class=b>written</i> per second",
		  cv_human_bytes(one.top > two.top ? one.top : two.top, buf), &one, &two);
	make_curve(samples, n, operations, &one);
	put_graph(out, "operations per second", cv_human_number(one.top, buf), &one, NULL);
	make_curve(samples, n, latency, &one);
	put_graph(out, "mean latency", cv_human_us(one.top, buf), &one, NULL);
	(void)fputs("</div></section>\n", out);
}

/* ---- the whole ---- */

static void put_page(FILE *out, const struct cv_view *views, size_t count,
		     struct cv_history *history, int64_t now_s)
{
	(void)fprintf(out,
		      "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
		      "<meta name=viewport content=\"width=device-width,initial-scale=1\">"
		      "<meta http-equiv=refresh content=%d><title>cvol</title>"
		      "<style>%s</style></head><body>\n"
		      "<h1>cvol <small>" CV_VERSION "</small></h1>\n",
		      REFRESH_S, style);
	put_table(out, views, count, now_s);
	for (size_t i = 0; history && i < count; i++)
		put_graphs(out, &views[i], history);
	(void)fputs("<p class=dim>Graphs show the last 30 minutes. Also here: "
		    "<a href=metrics>metrics</a>, <a href=status.json>status.json</a>.</p>\n"
		    "</body></html>\n",
		    out);
}

char *cv_page_format(const struct cv_view *views, size_t count, struct cv_history *history,
		     int64_t now_s)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	bool failed;

	if (!out)
		return NULL;
	put_page(out, views, count, history, now_s);
	failed = ferror(out) != 0;
	if (fclose(out) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}
