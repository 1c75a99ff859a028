/* later PICTURES: seconds of each picture after the first, on the processor, one a line. */
#include <chiaro.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int count, char **words)
{
    chiaro_engine_options options = CHIARO_ENGINE_OPTIONS_INIT;
    chiaro_request request = CHIARO_REQUEST_INIT;
    chiaro_engine *engine = NULL;
    chiaro_model *model = NULL;
    static unsigned char pixels[256 * 256 * 3];
    int pictures = count > 1 ? atoi(words[1]) : 4, i;
    options.device = "cpu";
    request.prompt = "a red ball";
    request.steps = 8;
    if (chiaro_engine_new(&options, &engine, NULL) != CHIARO_OK || chiaro_model_load(engine, NULL, &model, NULL) != CHIARO_OK)
        return 1;
    for (i = 0; i <= pictures; ++i) {
        chiaro_job *job = NULL;
        chiaro_image *image = NULL;
        double began = now();
        if (chiaro_job_new(model, &request, &job, NULL) != CHIARO_OK || chiaro_job_run(job, NULL) != CHIARO_OK ||
            chiaro_job_image(job, 0, &image, NULL) != CHIARO_OK ||
            chiaro_image_read(image, CHIARO_FORMAT_RGB8, 0, pixels, sizeof pixels, NULL) != CHIARO_OK)
            return 1;
        chiaro_image_release(image);
        chiaro_job_release(job);
        if (i > 0)
            printf("%.6f\n", now() - began);
    }
    chiaro_model_release(model);
    chiaro_engine_release(engine);
    return 0;
}
