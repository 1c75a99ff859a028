/* One picture with progress: one_picture OUTPUT.png [PROMPT [MODEL [DEVICE]]]
 *
 *     cc one_picture.c -o one_picture $(pkg-config --cflags --libs chiaro)
 */
#include <chiaro.h>
#include <stdio.h>
#include <string.h>

static void show(chiaro_job *job, const chiaro_event *event, void *user)
{
    (void)job;
    (void)user;
    if (event->kind == CHIARO_EVENT_STEP)
        fprintf(stderr, "step %u of %u, %.1f s left\n", (unsigned)event->step, (unsigned)event->of, event->seconds_left);
}

static int failed(const char *what, chiaro_error *error)
{
    fprintf(stderr, "%s: %s\n", what, chiaro_error_message(error));
    chiaro_error_release(error);
    return 1;
}

int main(int count, char **words)
{
    chiaro_engine *engine = NULL;
    chiaro_model *model = NULL;
    chiaro_job *job = NULL;
    chiaro_image *image = NULL;
    chiaro_error *error = NULL;
    chiaro_engine_options options = CHIARO_ENGINE_OPTIONS_INIT;
    chiaro_load_options load = CHIARO_LOAD_OPTIONS_INIT;
    chiaro_request request = CHIARO_REQUEST_INIT;
    chiaro_event event = CHIARO_EVENT_INIT;
    int result = 0;

    if (count < 2) {
        fprintf(stderr, "usage: %s OUTPUT.png [PROMPT [MODEL [DEVICE]]]\n", words[0]);
        return 2;
    }
    if (chiaro_version_check(CHIARO_VERSION, CHIARO_ABI_VERSION) != CHIARO_OK) {
        fprintf(stderr, "libchiaro is %s\n", chiaro_version_text());
        return 1;
    }
    /* The best GPU, else the processor; "cpu" has the same bytes everywhere. */
    options.device = count > 4 ? words[4] : "auto";
    /* A folder or a file; the demo model is in the library. */
    load.path = count > 3 && strcmp(words[3], "demo") != 0 ? words[3] : NULL;
    request.prompt = count > 2 ? words[2] : "a red ball";
    request.steps = 8;

    if (chiaro_engine_new(&options, &engine, &error) != CHIARO_OK)
        return failed("device", error);
    if (chiaro_model_load(engine, &load, &model, &error) != CHIARO_OK)
        result = failed("model", error);
    else if (chiaro_job_new(model, &request, &job, &error) != CHIARO_OK)
        result = failed("request", error);
    else
        for (;;) {
            if (chiaro_job_step(job, &event, &error) != CHIARO_OK) {
                result = failed("picture", error);
                break;
            }
            if (event.kind == CHIARO_EVENT_FINISHED)
                break;
            show(job, &event, NULL);
            if (event.kind == CHIARO_EVENT_PICTURE)
                image = chiaro_image_retain(event.picture);
        }
    if (image != NULL) {
        if (chiaro_image_save(image, words[1], 1, &error) != CHIARO_OK)
            result = failed(words[1], error);
        else
            fprintf(stderr, "%s: %ux%u\n", words[1], (unsigned)chiaro_image_width(image), (unsigned)chiaro_image_height(image));
    }
    /* In any order; NULL is nothing. */
    chiaro_image_release(image);
    chiaro_job_release(job);
    chiaro_model_release(model);
    chiaro_engine_release(engine);
    return result;
}
