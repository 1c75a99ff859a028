/* files PATH…: looks at each, and loads it in every place that a model has. Every outcome is a status, and a word where it is an error. */
#include "check.h"

static void took(chiaro_status status, chiaro_error *error)
{
    CHECK(status >= CHIARO_OK && status < CHIARO_INTERNAL);
    CHECK((status == CHIARO_OK) == (error == NULL));
    CHECK(error == NULL || chiaro_error_message(error)[0] != 0);
    chiaro_error_release(error);
}

int main(int count, char **words)
{
    chiaro_engine *engine = open_engine();
    int i;
    (void)small_request;
    for (i = 1; i < count; ++i) {
        static const char *places[] = {
            "{\"model\":{\"vae\":\"%s\"}}",
            "{\"model\":{\"text_encoder\":\"%s\"}}",
            "{\"adapters\":[{\"file\":\"%s\"}]}",
            "{\"embeddings\":[\"%s\"]}",
            "{\"controls\":[{\"net\":\"%s\"}]}",
        };
        chiaro_load_options options = CHIARO_LOAD_OPTIONS_INIT;
        chiaro_model *model = NULL;
        chiaro_error *error = NULL;
        char *json = NULL;
        char text[4096];
        size_t place;
        chiaro_status status;
        status = chiaro_inspect(words[i], &json, &error);
        took(status, error);
        chiaro_text_free(json);
        options.path = words[i];
        error = NULL;
        status = chiaro_model_load(engine, &options, &model, &error);
        took(status, error);
        chiaro_model_release(model);
        options.path = NULL;
        for (place = 0; place < sizeof places / sizeof *places; ++place) {
            snprintf(text, sizeof text, places[place], words[i]);
            options.json = text;
            model = NULL;
            error = NULL;
            status = chiaro_model_load(engine, &options, &model, &error);
            took(status, error);
            chiaro_model_release(model);
        }
    }
    chiaro_engine_release(engine);
    printf("%d files\n", count - 1);
    return 0;
}
