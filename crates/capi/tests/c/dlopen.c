/* dlopen LIBRARY COPY: opened and closed fifty times, with handles that are released and with some that are not; a second copy beside it. No thread is
 * left once an engine is released. */
#include <chiaro.h>
#include <dirent.h>
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHECK(what)                                                                                                                        \
    do {                                                                                                                                   \
        if (!(what)) {                                                                                                                     \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #what, dlerror());                                                     \
            exit(1);                                                                                                                       \
        }                                                                                                                                  \
    } while (0)

static int threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    int count = 0;
    struct dirent *entry;
    CHECK(folder != NULL);
    while ((entry = readdir(folder)) != NULL)
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

/* A thread that was joined is listed for a moment still. */
static int threads_left(int wanted)
{
    int tries;
    for (tries = 0; tries < 100 && threads() > wanted; ++tries)
        usleep(10000);
    return threads();
}

static long resident(void)
{
    long pages = 0, all = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld %ld", &all, &pages) == 2);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void draw(void *library, int releases)
{
    chiaro_engine_options options = CHIARO_ENGINE_OPTIONS_INIT;
    chiaro_request request = CHIARO_REQUEST_INIT;
    chiaro_engine *engine = NULL;
    chiaro_model *model = NULL;
    chiaro_job *job = NULL;
    chiaro_status (*engine_new)(const chiaro_engine_options *, chiaro_engine **, chiaro_error **);
    chiaro_status (*model_load)(chiaro_engine *, const chiaro_load_options *, chiaro_model **, chiaro_error **);
    chiaro_status (*job_new)(const chiaro_model *, const chiaro_request *, chiaro_job **, chiaro_error **);
    chiaro_status (*job_run)(chiaro_job *, chiaro_error **);
    void (*engine_release)(chiaro_engine *);
    void (*model_release)(chiaro_model *);
    void (*job_release)(chiaro_job *);
    *(void **)&engine_new = dlsym(library, "chiaro_engine_new");
    *(void **)&model_load = dlsym(library, "chiaro_model_load");
    *(void **)&job_new = dlsym(library, "chiaro_job_new");
    *(void **)&job_run = dlsym(library, "chiaro_job_run");
    *(void **)&engine_release = dlsym(library, "chiaro_engine_release");
    *(void **)&model_release = dlsym(library, "chiaro_model_release");
    *(void **)&job_release = dlsym(library, "chiaro_job_release");
    options.device = getenv("CHIARO_TEST_DEVICE") != NULL ? getenv("CHIARO_TEST_DEVICE") : "cpu";
    request.prompt = "a red ball";
    request.width = request.height = 64;
    request.steps = 1;
    CHECK(engine_new(&options, &engine, NULL) == CHIARO_OK);
    CHECK(model_load(engine, NULL, &model, NULL) == CHIARO_OK);
    CHECK(job_new(model, &request, &job, NULL) == CHIARO_OK);
    CHECK(job_run(job, NULL) == CHIARO_OK);
    if (releases) {
        engine_release(engine);
        model_release(model);
        job_release(job);
    }
}

int main(int count, char **words)
{
    int before = threads(), i, times = count > 3 ? atoi(words[3]) : 50, fifth = times / 5;
    long first = 0, last = 0;
    void *library, *copy;
    CHECK(count > 2);
    /* Arenas of threads that were are kept; here only what is not given back shows. */
    mallopt(M_ARENA_MAX, 1);
    for (i = 0; i < times; ++i) {
        CHECK((library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL)) != NULL);
        draw(library, 1);
        CHECK(threads_left(before) == before);
        CHECK(dlclose(library) == 0);
        /* The mean of a fifth of the times: one value alone is off by a tenth. */
        if (i / fifth == 1)
            first += resident() / fifth;
        if (i / fifth == 4)
            last += resident() / fifth;
    }
    printf("%d times: %ld KiB in the second fifth, %ld KiB in the last\n", times, first, last);
    CHECK(last < first + first / 10);
    /* Two copies of the file know nothing of each other. */
    CHECK((library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL)) != NULL);
    CHECK((copy = dlopen(words[2], RTLD_NOW | RTLD_LOCAL)) != NULL && copy != library);
    draw(library, 1);
    draw(copy, 1);
    CHECK(threads_left(before) == before);
    /* Closed, and left by exit(), with what is not released. */
    draw(library, 0);
    draw(copy, 0);
    CHECK(dlclose(library) == 0);
    return 0;
}
