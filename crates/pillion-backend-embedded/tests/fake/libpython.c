/* The functions of Python 3.14 by which it is started. It never starts: its error says what it was asked for. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char said[4096];

static int say(const char *name, const char *value) {
    static const char *known[] = {"isolated", "use_environment", "user_site_directory", "configure_locale",
                                  "utf8_mode", "install_signal_handlers", "program_name"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i]) == 0) {
            size_t used = strlen(said);
            snprintf(said + used, sizeof said - used, "%s=%s ", name, value);
            return 0;
        }
    return -1;
}

const char *Py_GetVersion(void) { return "3.99.0 (stub)"; }
int Py_IsInitialized(void) { return 0; }
void *PyEval_SaveThread(void) { abort(); }
void *PyInitConfig_Create(void) { return said; }
void PyInitConfig_Free(void *config) { (void)config; }
int PyInitConfig_SetStr(void *config, const char *name, const char *value) { return config == said ? say(name, value) : -1; }

int PyInitConfig_SetInt(void *config, const char *name, int64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return config == said ? say(name, text) : -1;
}

int PyInitConfig_GetError(void *config, const char **message) {
    *message = config;
    return 1;
}

int Py_InitializeFromInitConfig(void *config) { return config == said ? -1 : 0; }
