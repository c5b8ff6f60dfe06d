/* SPDX-License-Identifier: Apache-2.0 */
/* ssh_config files and certificates; the first byte chooses. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/ssh_cert.h"
#include "backends/ssh_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void config(const char *text, size_t size)
{
	FILE *f = fmemopen((void *)(uintptr_t)text, size, "r");
	struct cv_ssh_conf conf;
	struct cv_err err;

	if (!f)
		return;
	if (cv_ssh_config_parse(f, "conf", "nas", NULL, &conf, &err) == 0)
		cv_ssh_conf_release(&conf);
	(void)fclose(f);
}

static void certificate(const char *text)
{
	struct cv_ssh_cert cert;
	char why[64];

	if (cv_ssh_cert_parse(text, "root", &cert) < 0)
		return;
	(void)cv_ssh_cert_fits(&cert, text);
	cv_ssh_cert_trouble(&cert, "root", 1600000000, why, sizeof(why));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;

	if (size < 2)
		return 0;
	text = malloc(size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (data[0] & 1)
		certificate(text);
	else
		config(text, size - 1);
	free(text);
	return 0;
}
