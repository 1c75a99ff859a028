/* behaviour MODEL.safetensors: what the header promises, one thing after the other. */
#include "check.h"
#include <fenv.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static chiaro_job *new_job(chiaro_model *model, const chiaro_request *request)
{
    chiaro_job *job = NULL;
    OK(chiaro_job_new(model, request, &job, &error));
    return job;
}

static chiaro_model *load(chiaro_engine *engine, const chiaro_load_options *options)
{
    chiaro_model *model = NULL;
    OK(chiaro_model_load(engine, options, &model, &error));
    return model;
}

/* The pixels of one picture. */
static void draw(chiaro_model *model, const chiaro_request *request, unsigned char *pixels)
{
    chiaro_job *job = new_job(model, request);
    chiaro_image *image = NULL;
    OK(chiaro_job_run(job, &error));
    OK(chiaro_job_image(job, 0, &image, &error));
    chiaro_job_release(job);
    OK(chiaro_image_read(image, CHIARO_FORMAT_RGB8, 0, pixels, 64 * 64 * 3, &error));
    chiaro_image_release(image);
}

static unsigned char wanted[64 * 64 * 3], got[64 * 64 * 3];

/* A struct of an older header is shorter, of a newer one longer. */
static void sizes(chiaro_model *model)
{
    union {
        chiaro_request request;
        unsigned char bytes[sizeof(chiaro_request) + 32];
    } longer;
    union {
        chiaro_event event;
        unsigned char bytes[sizeof(chiaro_event)];
    } shorter;
    chiaro_request request = small_request("a red ball", 2);
    chiaro_job *job = NULL;
    chiaro_error *error = NULL;
    memset(&longer, 0, sizeof longer);
    longer.request = request;
    longer.request.struct_size = sizeof longer;
    draw(model, &longer.request, got);
    CHECK(memcmp(wanted, got, sizeof got) == 0);
    longer.bytes[sizeof longer - 1] = 1;
    CHECK(chiaro_job_new(model, &longer.request, &job, &error) == CHIARO_VERSION_MISMATCH && job == NULL);
    chiaro_error_release(error);
    error = NULL;
    /* An older one ends before the seed: that is the default then. */
    request.seed = 99;
    request.struct_size = (uint32_t)offsetof(chiaro_request, seed);
    draw(model, &request, got);
    CHECK(memcmp(wanted, got, sizeof got) == 0);
    request.struct_size = 0;
    CHECK(chiaro_job_new(model, &request, &job, &error) == CHIARO_INVALID_ARGUMENT);
    chiaro_error_release(error);
    /* What an older event has no room for is not written. */
    request = small_request("a red ball", 2);
    job = new_job(model, &request);
    memset(&shorter, 0xa5, sizeof shorter);
    shorter.event.struct_size = (uint32_t)offsetof(chiaro_event, done);
    OK(chiaro_job_step(job, &shorter.event, &error));
    CHECK(shorter.event.kind == CHIARO_EVENT_ENCODED && shorter.event.struct_size == offsetof(chiaro_event, done));
    CHECK(shorter.bytes[offsetof(chiaro_event, done)] == 0xa5);
    chiaro_job_release(job);
}

/* Bytes and readers are the file. */
struct source {
    const unsigned char *bytes;
    size_t size;
    int closed;
    int fails;
};

static int32_t read_at(uint64_t offset, uint8_t *buffer, size_t size, void *user)
{
    struct source *source = user;
    if (source->fails || offset > source->size || size > source->size - offset)
        return 5;
    memcpy(buffer, source->bytes + offset, size);
    return 0;
}

static void close_source(void *user)
{
    ((struct source *)user)->closed++;
}

static int32_t stop_at(uint32_t done, uint32_t of, const char *what, void *user)
{
    CHECK(done < of && what[0] != 0);
    return done == *(uint32_t *)user ? 1 : 0;
}

/* Lives as long as the engine. */
static struct source source;

static void sources(chiaro_engine *engine, const char *path)
{
    chiaro_load_options options = CHIARO_LOAD_OPTIONS_INIT;
    chiaro_reader reader = CHIARO_READER_INIT;
    chiaro_request request = small_request("a red ball", 1);
    chiaro_model *model = NULL;
    chiaro_error *error = NULL;
    unsigned char *bytes;
    FILE *file = fopen(path, "rb");
    long size;
    uint32_t part;
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0);
    bytes = malloc((size_t)size);
    CHECK(bytes != NULL && fread(bytes, 1, (size_t)size, file) == (size_t)size);
    fclose(file);
    options.path = path;
    model = load(engine, &options);
    draw(model, &request, wanted);
    chiaro_model_release(model);
    options.path = NULL;
    options.bytes = bytes;
    options.size = (size_t)size;
    model = load(engine, &options);
    draw(model, &request, got);
    chiaro_model_release(model);
    CHECK(memcmp(wanted, got, sizeof got) == 0);
    /* Cut short. */
    options.size = (size_t)size / 2;
    CHECK(chiaro_model_load(engine, &options, &model, &error) == CHIARO_MODEL && model == NULL);
    chiaro_error_release(error);
    options.bytes = NULL;
    options.reader = &reader;
    source.bytes = bytes;
    source.size = (size_t)size;
    reader.size = (uint64_t)size;
    reader.read_at = read_at;
    reader.close = close_source;
    reader.user = &source;
    model = load(engine, &options);
    draw(model, &request, got);
    CHECK(memcmp(wanted, got, sizeof got) == 0);
    OK(chiaro_engine_trim(engine, &error));
    source.fails = 1;
    {
        chiaro_job *job = new_job(model, &request);
        error = NULL;
        CHECK(chiaro_job_run(job, &error) == CHIARO_MODEL || chiaro_error_status(error) == CHIARO_IO);
        chiaro_error_release(error);
        chiaro_job_release(job);
    }
    source.fails = 0;
    draw(model, &request, got);
    CHECK(source.closed == 0);
    chiaro_model_release(model);
    error = NULL;
    CHECK(memcmp(wanted, got, sizeof got) == 0);
    /* Loading can be stopped before any part. */
    options.reader = NULL;
    options.path = path;
    options.json = "{\"model\":{\"prediction\":\"epsilon\"}}";
    options.progress = stop_at;
    options.progress_user = &part;
    for (part = 0; part < 3; ++part) {
        CHECK(chiaro_model_load(engine, &options, &model, &error) == CHIARO_CANCELLED && model == NULL);
        chiaro_error_release(error);
        error = NULL;
    }
    free(bytes);
}

/* Loading, drawing and pictures leave the process as it was. */
static void process_is_as_it_was(void)
{
    chiaro_engine *engine;
    chiaro_model *model;
    chiaro_request request = small_request("a red ball", 2);
    sigset_t before, after;
    char folder[4096], folder_after[4096];
    fenv_t environment, environment_after;
    int rounding = fegetround();
    char *locale = strdup(setlocale(LC_ALL, NULL));
    /* The kernel writes some of their bytes. */
    memset(&before, 0, sizeof before);
    memset(&after, 0, sizeof after);
    CHECK(getcwd(folder, sizeof folder) != NULL && pthread_sigmask(SIG_SETMASK, NULL, &before) == 0);
    feclearexcept(FE_ALL_EXCEPT);
    CHECK(fegetenv(&environment) == 0);
    engine = open_engine();
    model = load(engine, NULL);
    draw(model, &request, got);
    chiaro_model_release(model);
    chiaro_engine_release(engine);
    CHECK(getcwd(folder_after, sizeof folder_after) != NULL && strcmp(folder, folder_after) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0 && memcmp(&before, &after, sizeof before) == 0);
    CHECK(fegetround() == rounding && strcmp(locale, setlocale(LC_ALL, NULL)) == 0);
    feclearexcept(FE_ALL_EXCEPT);
    CHECK(fegetenv(&environment_after) == 0);
    CHECK(memcmp(&environment, &environment_after, sizeof environment) == 0);
    free(locale);
}

/* Two engines, two models, four threads. */
struct part {
    chiaro_model *model;
    unsigned char pixels[64 * 64 * 3];
};

static void *draw_part(void *argument)
{
    struct part *part = argument;
    chiaro_request request = small_request("a red ball", 2);
    draw(part->model, &request, part->pixels);
    return NULL;
}

static void side_by_side(void)
{
    static struct part parts[4];
    chiaro_engine *engines[2];
    chiaro_load_options without = CHIARO_LOAD_OPTIONS_INIT;
    pthread_t threads[4];
    int i;
    without.oms = "off";
    for (i = 0; i < 2; ++i)
        engines[i] = open_engine();
    for (i = 0; i < 4; ++i)
        parts[i].model = load(engines[i % 2], i < 2 ? NULL : &without);
    for (i = 0; i < 4; ++i)
        CHECK(pthread_create(&threads[i], NULL, draw_part, &parts[i]) == 0);
    for (i = 0; i < 4; ++i)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(memcmp(parts[0].pixels, parts[1].pixels, sizeof parts[0].pixels) == 0);
    CHECK(memcmp(parts[2].pixels, parts[3].pixels, sizeof parts[0].pixels) == 0);
    CHECK(memcmp(parts[0].pixels, parts[2].pixels, sizeof parts[0].pixels) != 0);
    for (i = 0; i < 4; ++i)
        chiaro_model_release(parts[i].model);
    for (i = 0; i < 2; ++i)
        chiaro_engine_release(engines[i]);
}

/* The plan is what is allocated: with nothing that stays, the most that lies on the device at an event is the plan's peak. */
static void watch(chiaro_job *job, const chiaro_event *event, void *user)
{
    chiaro_statistics now = CHIARO_STATISTICS_INIT;
    uint64_t *most = (uint64_t *)((void **)user)[1];
    (void)job;
    (void)event;
    OK(chiaro_engine_statistics(((void **)user)[0], &now, &error));
    if (now.allocated_bytes > *most)
        *most = now.allocated_bytes;
}

static void plans(void)
{
    chiaro_engine_options options = CHIARO_ENGINE_OPTIONS_INIT;
    chiaro_engine *engine = NULL;
    chiaro_request request = small_request("a red ball", 2);
    const char *device = getenv("CHIARO_TEST_DEVICE"), *peak;
    chiaro_model *model;
    chiaro_job *job;
    uint64_t most = 0;
    void *user[2];
    char *json = NULL;
    options.device = device != NULL ? device : "cpu";
    options.residency = CHIARO_WHEN_OFF;
    OK(chiaro_engine_new(&options, &engine, &error));
    model = load(engine, NULL);
    OK(chiaro_plan(model, &request, &json, &error));
    peak = strstr(json, "\"peak_bytes\":");
    /* The last one is of all stages: members are in the order of the alphabet. */
    CHECK(peak != NULL);
    {
        unsigned long long planned = strtoull(peak + 13, NULL, 10);
        user[0] = engine;
        user[1] = &most;
        job = new_job(model, &request);
        OK(chiaro_job_start(job, watch, user, &error));
        OK(chiaro_job_wait(job, -1, &error));
        OK(chiaro_job_status(job, &error));
        chiaro_job_release(job);
        if (most != planned) {
            fprintf(stderr, "planned %llu, allocated %llu\n", planned, (unsigned long long)most);
            exit(1);
        }
    }
    chiaro_text_free(json);
    chiaro_model_release(model);
    chiaro_engine_release(engine);
}

static void count_log(uint32_t level, const char *message, void *user)
{
    CHECK(level == CHIARO_LOG_WARNING || level == CHIARO_LOG_INFO);
    CHECK(message[0] != 0 && strchr(message, '\n') == NULL);
    ++*(int *)user;
}

/* Messages go where the engine says, pictures as the caller wants them. */
static void rest(void)
{
    chiaro_engine_options options = CHIARO_ENGINE_OPTIONS_INIT;
    chiaro_engine *engine = NULL;
    chiaro_request request = small_request("a red dragon", 2);
    chiaro_model *model;
    chiaro_job *job;
    chiaro_image *image = NULL;
    chiaro_error *error = NULL;
    chiaro_event event = CHIARO_EVENT_INIT;
    static unsigned char rgba[64 * 300];
    static float floats[64 * 64 * 4];
    int told = 0, i, previews = 0, kinds = 0;
    options.device = "cpu";
    options.log = count_log;
    options.log_level = CHIARO_LOG_INFO;
    options.log_user = &told;
    OK(chiaro_engine_new(&options, &engine, &error));
    model = load(engine, NULL);
    request.preview_every = 1;
    request.steps = 3;
    job = new_job(model, &request);
    CHECK(told > 0);
    do {
        OK(chiaro_job_step(job, &event, &error));
        kinds |= 1 << event.kind;
        CHECK(event.done <= event.total && event.seconds >= 0.0);
        if (event.kind == CHIARO_EVENT_STEP && event.picture != NULL) {
            CHECK(chiaro_image_width(event.picture) == 64 && strcmp(chiaro_image_parameters(event.picture), "{}") == 0);
            previews++;
        }
        if (event.kind == CHIARO_EVENT_PICTURE)
            image = chiaro_image_retain(event.picture);
    } while (event.kind != CHIARO_EVENT_FINISHED);
    CHECK(previews == 2 && event.done == event.total);
    CHECK(kinds == (1 << CHIARO_EVENT_ENCODED | 1 << CHIARO_EVENT_OMS | 1 << CHIARO_EVENT_STEP | 1 << CHIARO_EVENT_PICTURE | 1 << CHIARO_EVENT_FINISHED));
    OK(chiaro_job_step(job, &event, &error));
    CHECK(event.kind == CHIARO_EVENT_FINISHED && chiaro_job_image_count(job) == 0);
    OK(chiaro_job_status(job, &error));
    chiaro_job_release(job);
    OK(chiaro_image_read(image, CHIARO_FORMAT_RGB8, 0, got, sizeof got, &error));
    OK(chiaro_image_read(image, CHIARO_FORMAT_RGBA8, 300, rgba, 63 * 300 + 256, &error));
    OK(chiaro_image_read(image, CHIARO_FORMAT_RGBA32F, 0, floats, sizeof floats, &error));
    for (i = 0; i < 64 * 64; ++i) {
        const unsigned char *pixel = got + 3 * i, *four = rgba + i / 64 * 300 + i % 64 * 4;
        CHECK(memcmp(pixel, four, 3) == 0 && four[3] == 255 && floats[4 * i + 3] == 1.0f);
        CHECK(floats[4 * i] == (float)pixel[0] / 255.0f);
    }
    CHECK(chiaro_image_read(image, CHIARO_FORMAT_RGBA8, 300, rgba, 63 * 300 + 255, &error) == CHIARO_INVALID_ARGUMENT);
    CHECK(strstr(chiaro_error_json(error), "\"wanted\":19156") != NULL);
    chiaro_error_release(error);
    error = NULL;
    CHECK(strstr(chiaro_image_parameters(image), "a red dragon") != NULL && chiaro_image_seed(image) == 0);
    CHECK(chiaro_image_vulkan(image) == 0 && chiaro_image_d3d12(image) == NULL && chiaro_image_metal(image) == NULL);
    /* Devices of other systems. */
    for (i = 0; i < 4; ++i) {
        void *device = i % 2 ? &source : NULL;
        chiaro_engine *made = engine;
        chiaro_status status = i < 2 ? chiaro_engine_from_d3d12(device, NULL, &made, &error) : chiaro_engine_from_metal(device, NULL, &made, &error);
        CHECK(status == (device == NULL ? CHIARO_INVALID_ARGUMENT : CHIARO_UNSUPPORTED) && made == NULL);
        chiaro_error_release(error);
        error = NULL;
    }
    /* A job's own adapters and module. */
    request = small_request("a red ball", 2);
    request.json = "{\"model\":{\"oms\":\"off\"}}";
    draw(model, &request, got);
    request.json = NULL;
    request.oms = CHIARO_WHEN_OFF;
    draw(model, &request, wanted);
    CHECK(memcmp(wanted, got, sizeof got) == 0);
    request.oms = 0;
    draw(model, &request, got);
    CHECK(memcmp(wanted, got, sizeof got) != 0);
    request.json = "{\"adapters\":[{\"file\":\"/nowhere.safetensors\"}]}";
    CHECK(chiaro_job_new(model, &request, &job, &error) == CHIARO_MODEL);
    CHECK(strstr(chiaro_error_json(error), "/nowhere.safetensors") != NULL);
    chiaro_error_release(error);
    error = NULL;
    request.json = "{\"request\":{\"promt\":\"x\"}}";
    CHECK(chiaro_job_new(model, &request, &job, &error) == CHIARO_INVALID_ARGUMENT);
    CHECK(strstr(chiaro_error_message(error), "did you mean prompt?") != NULL);
    chiaro_error_release(error);
    chiaro_image_release(image);
    chiaro_model_release(model);
    chiaro_engine_release(engine);
}

int main(int count, char **words)
{
    chiaro_engine *engine = open_engine();
    chiaro_model *model = load(engine, NULL);
    chiaro_request request = small_request("a red ball", 2);
    draw(model, &request, wanted);
    sizes(model);
    chiaro_model_release(model);
    if (count > 1)
        sources(engine, words[1]);
    chiaro_engine_release(engine);
    /* Nobody reads any more, and nobody will. */
    CHECK(source.closed == (count > 1));
    side_by_side();
    plans();
    process_is_as_it_was();
    rest();
    return 0;
}
