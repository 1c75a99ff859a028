/* What the test programs have in common. */
#ifndef CHECK_H
#define CHECK_H

#include <chiaro.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)                                                                                                                        \
    do {                                                                                                                                   \
        if (!(what)) {                                                                                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                                                                     \
            exit(1);                                                                                                                       \
        }                                                                                                                                  \
    } while (0)

#define OK(call)                                                                                                                           \
    do {                                                                                                                                   \
        chiaro_error *error = NULL;                                                                                                        \
        chiaro_status status = (call);                                                                                                     \
        if (status != CHIARO_OK) {                                                                                                         \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, chiaro_status_text(status), chiaro_error_message(error));               \
            exit(1);                                                                                                                       \
        }                                                                                                                                  \
        CHECK(error == NULL);                                                                                                              \
    } while (0)

/* An engine on the device that the environment names, the processor without. */
static chiaro_engine *open_engine(void)
{
    chiaro_engine_options options = CHIARO_ENGINE_OPTIONS_INIT;
    chiaro_engine *engine = NULL;
    const char *device = getenv("CHIARO_TEST_DEVICE");
    options.device = device != NULL ? device : "cpu";
    OK(chiaro_engine_new(&options, &engine, &error));
    return engine;
}

static chiaro_request small_request(const char *prompt, uint32_t steps)
{
    chiaro_request request = CHIARO_REQUEST_INIT;
    request.prompt = prompt;
    request.width = request.height = 64;
    request.steps = steps;
    return request;
}

#endif
