/* Two versions of the library linked into one program, each with names of its own: compiled once for each version with DRAW as the name of what it gives
 * and its names in force (-include), and once without DRAW for what compares them. */
#define SIDE 64

#ifdef DRAW

#include "check.h"

void DRAW(unsigned char *rgb);
void DRAW(unsigned char *rgb)
{
    chiaro_engine *engine = open_engine();
    chiaro_request request = small_request("a red ball", 2);
    chiaro_model *model = NULL;
    chiaro_job *job = NULL;
    chiaro_image *image = NULL;
    OK(chiaro_model_load(engine, NULL, &model, &error));
    OK(chiaro_job_new(model, &request, &job, &error));
    OK(chiaro_job_run(job, &error));
    OK(chiaro_job_image(job, 0, &image, &error));
    OK(chiaro_image_read(image, CHIARO_FORMAT_RGB8, 0, rgb, 3 * SIDE * SIDE, &error));
    chiaro_image_release(image);
    chiaro_job_release(job);
    chiaro_model_release(model);
    chiaro_engine_release(engine);
}

#else

#include <stdio.h>
#include <string.h>

void older(unsigned char *rgb);
void newer(unsigned char *rgb);

int main(void)
{
    static unsigned char one[3 * SIDE * SIDE], other[3 * SIDE * SIDE];
    older(one);
    newer(other);
    printf("%s, %s\n", one[0] != 0 ? "drawn" : "nothing", memcmp(one, other, sizeof one) == 0 ? "equal" : "other");
    return 0;
}

#endif
