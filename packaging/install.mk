# SPDX-License-Identifier: Apache-2.0
# make install [DESTDIR=] [PREFIX=/usr/local] [SYSTEMDDIR=dir of units; empty: none]
#
# The programs, manual pages and shell completions that are there, and systemd's units where systemd is.

INSTALL    ?= install
SYSTEMDDIR ?= $(if $(wildcard /usr/lib/systemd/system /lib/systemd/system),$(if $(filter /usr,$(PREFIX)),/usr/lib/systemd/system,/etc/systemd/system))
SCHEMADIR   = $(PREFIX)/share/cvol
MAN1_PAGES  = $(wildcard packaging/man/*.1)
MAN5_PAGES  = $(wildcard packaging/man/*.5)
MAN8_PAGES  = $(wildcard packaging/man/*.8)
MONITORING  = $(wildcard packaging/monitoring/*)
DATADIR     = $(PREFIX)/share
# Where each shell looks, and the name it wants.
COMPLETIONS = cvol.bash:bash-completion/completions/cvol _cvol:zsh/site-functions/_cvol \
	cvol.fish:fish/vendor_completions.d/cvol.fish
completion_from = packaging/completions/$(word 1,$(subst :, ,$(1)))
completion_to   = $(DESTDIR)$(DATADIR)/$(word 2,$(subst :, ,$(1)))
SCHEMAS     = $(wildcard packaging/schema/*.json)
UNITS       = packaging/systemd/cvol.service packaging/systemd/cvol.socket

# The daemon knows where its worker is installed: another PREFIX makes that one file new.
$(BUILD)/obj/plugin/spawn.o: $(BUILD)/libexecdir
$(BUILD)/libexecdir: FORCE
	@mkdir -p $(@D)
	@echo '$(LIBEXECDIR)' | cmp -s - $@ || echo '$(LIBEXECDIR)' >$@
.PHONY: FORCE
FORCE:

.PHONY: install uninstall check-units
install: all
	$(INSTALL) -D -m 755 $(BUILD)/cvol $(DESTDIR)$(BINDIR)/cvol
	$(INSTALL) -D -m 755 $(BUILD)/cvol-fuse $(DESTDIR)$(LIBEXECDIR)/cvol-fuse
	$(foreach page,$(MAN1_PAGES),$(INSTALL) -D -m 644 $(page) $(DESTDIR)$(MANDIR)/man1/$(notdir $(page));)
	$(foreach page,$(MAN5_PAGES),$(INSTALL) -D -m 644 $(page) $(DESTDIR)$(MANDIR)/man5/$(notdir $(page));)
	$(foreach page,$(MAN8_PAGES),$(INSTALL) -D -m 644 $(page) $(DESTDIR)$(MANDIR)/man8/$(notdir $(page));)
	$(foreach file,$(MONITORING),$(INSTALL) -D -m 644 $(file) $(DESTDIR)$(PREFIX)/share/cvol/monitoring/$(notdir $(file));)
	$(INSTALL) -D -m 755 packaging/completions/complete $(DESTDIR)$(LIBEXECDIR)/complete
	$(foreach c,$(COMPLETIONS),mkdir -p $(dir $(call completion_to,$(c))) && \
		sed 's,@LIBEXECDIR@,$(LIBEXECDIR),g' $(call completion_from,$(c)) >$(call completion_to,$(c)) && \
		chmod 644 $(call completion_to,$(c));)
	$(foreach schema,$(SCHEMAS),$(INSTALL) -D -m 644 $(schema) $(DESTDIR)$(SCHEMADIR)/$(notdir $(schema));)
	$(if $(SYSTEMDDIR),$(foreach unit,$(UNITS),mkdir -p $(DESTDIR)$(SYSTEMDDIR) && \
		sed 's,@BINDIR@,$(BINDIR),g' $(unit) >$(DESTDIR)$(SYSTEMDDIR)/$(notdir $(unit)) && \
		chmod 644 $(DESTDIR)$(SYSTEMDDIR)/$(notdir $(unit));))

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/cvol $(DESTDIR)$(LIBEXECDIR)/cvol-fuse \
		$(DESTDIR)$(LIBEXECDIR)/complete $(foreach c,$(COMPLETIONS),$(call completion_to,$(c)))
	-rmdir $(DESTDIR)$(LIBEXECDIR)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/cvol/monitoring/,$(notdir $(MONITORING)))
	rm -f $(addprefix $(DESTDIR)$(MANDIR)/man1/,$(notdir $(MAN1_PAGES))) \
		$(addprefix $(DESTDIR)$(MANDIR)/man5/,$(notdir $(MAN5_PAGES))) \
		$(addprefix $(DESTDIR)$(MANDIR)/man8/,$(notdir $(MAN8_PAGES)))
	rm -f $(addprefix $(DESTDIR)$(SCHEMADIR)/,$(notdir $(SCHEMAS)))
	-rmdir $(DESTDIR)$(SCHEMADIR)
	$(if $(SYSTEMDDIR),rm -f $(addprefix $(DESTDIR)$(SYSTEMDDIR)/,$(notdir $(UNITS))))

# The list of options in their manual page, from the program.
.PHONY: man-options
man-options: all
	packaging/man/refresh-options $(BUILD)/cvol packaging/man/cvol-options.5 >$(BUILD)/cvol-options.5
	cp $(BUILD)/cvol-options.5 packaging/man/cvol-options.5

# The units as they would be installed, read by systemd itself where it is there.
check-units: all
	@rm -rf $(BUILD)/units && mkdir -p $(BUILD)/units
	@for unit in $(UNITS); do \
		sed 's,@BINDIR@,$(abspath $(BUILD)),g' $$unit >$(BUILD)/units/$${unit##*/} || exit 1; done
	@if command -v systemd-analyze >/dev/null; then \
		systemd-analyze verify $(BUILD)/units/cvol.service $(BUILD)/units/cvol.socket; \
	else echo "check-units: no systemd-analyze here"; fi
