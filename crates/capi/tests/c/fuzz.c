/* fuzz COUNT: so many calls with NULL, foreign handles, wrong sizes, unknown numbers and odd texts. Every one gives a status. */
#include "check.h"

static uint64_t state = 88172645463325252ull;

static uint32_t random_below(uint32_t most)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 16) % most);
}

static void *some(void *own, void *foreign)
{
    switch (random_below(4)) {
    case 0: return NULL;
    case 1: return foreign;
    default: return own;
    }
}

static const char *texts[] = {
    NULL, "", "a red ball", "\xff\xfe", "{", "{}", "[1]", "null", "{\"request\":{\"promt\":\"x\"}}", "{\"request\":{\"width\":63}}",
    "{\"version\":9}", "{\"model\":{\"name\":\"/nowhere\"}}", "{\"device\":{\"name\":\"cpu\"}}", "cpu", "no such device", "q8_0", "off",
    "/dev/null", "{\"adapters\":[{\"file\":\"/nowhere\"}]}", "{\"image\":{\"file\":{\"bytes\":\"AAAA\"}}}", "../..", "0000:00:00.0",
};

static const char *text(void)
{
    return texts[random_below(sizeof texts / sizeof *texts)];
}

static uint32_t number(void)
{
    static const uint32_t values[] = {0, 1, 2, 3, 7, 8, 63, 64, 65, 1000, 4096, 8192, 65536, 0x7fffffffu, 0xffffffffu};
    return values[random_below(sizeof values / sizeof *values)];
}

static double weight(void)
{
    static const double values[] = {0.0, -1.0, 7.5, 1e308, -1e308, 1e-308};
    uint32_t which = random_below(8);
    if (which == 6)
        return strtod("nan", NULL);
    if (which == 7)
        return strtod("inf", NULL);
    return values[which];
}

static uint32_t any_size(uint32_t size)
{
    switch (random_below(6)) {
    case 0: return random_below(4097);
    case 1: return 0xffffffffu;
    case 2: return random_below(size + 1);
    default: return size;
    }
}

/* Structs lie in room that is larger than any size that a library reads. */
static union {
    chiaro_engine_options engine;
    chiaro_load_options load;
    chiaro_request request;
    chiaro_device_info info;
    chiaro_statistics statistics;
    chiaro_event event;
    chiaro_vulkan_device vulkan;
    unsigned char bytes[8192];
} room;

static void clear_room(void)
{
    memset(&room, 0, sizeof room);
    if (random_below(8) == 0)
        room.bytes[random_below(4096)] = 0;
}

static void one(chiaro_engine *engine, chiaro_model *model, chiaro_job *job, chiaro_image *image)
{
    static unsigned char pixels[64 * 64 * 16 + 64];
    chiaro_error *error = NULL;
    chiaro_error **told = random_below(8) == 0 ? NULL : &error;
    chiaro_status status = CHIARO_OK;
    char *json = NULL;
    clear_room();
    switch (random_below(22)) {
    case 0: {
        chiaro_engine *made = NULL;
        room.engine.struct_size = any_size(sizeof room.engine);
        room.engine.precision = random_below(3) ? 0 : number();
        room.engine.device = random_below(2) ? "cpu" : text();
        room.engine.weights = text();
        room.engine.residency = random_below(3) ? 0 : number();
        room.engine.vae_tiling = random_below(3) ? 0 : number();
        room.engine.log_level = random_below(3) ? 0 : number();
        room.engine.pci = random_below(4) ? NULL : text();
        status = chiaro_engine_new(some(&room.engine, NULL), random_below(8) ? &made : NULL, told);
        CHECK((status == CHIARO_OK) == (made != NULL));
        chiaro_engine_release(made);
        break;
    }
    case 1: {
        chiaro_model *made = NULL;
        room.load.struct_size = any_size(sizeof room.load);
        room.load.path = text();
        room.load.oms = text();
        room.load.json = text();
        room.load.width = number();
        room.load.height = number();
        if (random_below(4) == 0) {
            room.load.bytes = pixels;
            room.load.size = random_below(sizeof pixels);
        }
        status = chiaro_model_load(some(engine, model), some(&room.load, NULL), random_below(8) ? &made : NULL, told);
        CHECK((status == CHIARO_OK) == (made != NULL));
        chiaro_model_release(made);
        break;
    }
    case 2:
    case 3: {
        chiaro_job *made = NULL;
        room.request.struct_size = any_size(sizeof room.request);
        room.request.prompt = text();
        room.request.negative_prompt = text();
        room.request.sampler = random_below(2) ? NULL : text();
        room.request.oms_prompt = random_below(2) ? NULL : text();
        room.request.json = text();
        room.request.width = number();
        room.request.height = number();
        room.request.steps = number();
        room.request.count = number();
        room.request.batch = number();
        room.request.oms = number();
        room.request.guidance = weight();
        room.request.oms_guidance = weight();
        status = chiaro_job_new(some(model, image), some(&room.request, NULL), random_below(8) ? &made : NULL, told);
        CHECK((status == CHIARO_OK) == (made != NULL));
        chiaro_job_release(made);
        break;
    }
    case 4: {
        chiaro_job *made = NULL;
        status = chiaro_job_new_json(some(engine, job), text(), random_below(8) ? &made : NULL, told);
        chiaro_job_release(made);
        break;
    }
    case 5: room.request.struct_size = any_size(sizeof room.request);
        room.request.prompt = text();
        room.request.json = text();
        status = chiaro_plan(some(model, engine), some(&room.request, NULL), random_below(8) ? &json : NULL, told);
        break;
    case 6: status = chiaro_inspect(text(), random_below(8) ? &json : NULL, told); break;
    case 7: status = chiaro_engine_describe(some(engine, image), random_below(8) ? &json : NULL, told); break;
    case 8: status = chiaro_model_describe(some(model, job), random_below(8) ? &json : NULL, told); break;
    case 9: room.statistics.struct_size = any_size(sizeof room.statistics);
        status = chiaro_engine_statistics(some(engine, model), some(&room.statistics, NULL), told);
        break;
    case 10: status = chiaro_engine_trim(some(engine, job), told); break;
    case 11: room.event.struct_size = any_size(sizeof room.event);
        status = chiaro_job_step(some(job, model), some(&room.event, NULL), told);
        break;
    case 12: status = chiaro_job_status(some(job, engine), told); break;
    case 13: status = chiaro_job_wait(some(job, image), 0, told); break;
    case 14: {
        chiaro_image *found = NULL;
        status = chiaro_job_image(some(job, image), number(), random_below(8) ? &found : NULL, told);
        chiaro_image_release(found);
        break;
    }
    case 15:
    case 16: status = chiaro_image_read(
            some(image, job), number(), random_below(2) ? 0 : number(), some(pixels, NULL), random_below(sizeof pixels + 1), told);
        break;
    case 17: status = chiaro_image_png(some(image, model), NULL, NULL, told); break;
    case 18: status = chiaro_image_save(some(image, model), random_below(2) ? NULL : "/nowhere/at/all.png", number(), told); break;
    case 19: CHECK(chiaro_status_text((chiaro_status)number()) != NULL);
        CHECK(chiaro_error_message(some(NULL, (void *)image)) != NULL);
        CHECK(chiaro_image_parameters(some(NULL, (void *)job)) != NULL);
        CHECK(chiaro_image_width(some(NULL, (void *)job)) == 0);
        (void)chiaro_version_check(number(), number());
        chiaro_job_cancel(some(NULL, (void *)model));
        chiaro_engine_release(some(NULL, (void *)NULL));
        break;
    case 20: status = random_below(2000) ? CHIARO_OK : chiaro_device_get(number(), NULL, told); break;
    default: room.vulkan.struct_size = any_size(sizeof room.vulkan);
        room.vulkan.api_version = number();
        {
            chiaro_engine *made = NULL;
            status = chiaro_engine_from_vulkan(some(&room.vulkan, NULL), NULL, &made, told);
            CHECK(made == NULL);
        }
        break;
    }
    CHECK(status >= CHIARO_OK && status < CHIARO_INTERNAL);
    CHECK(told == NULL || (status != CHIARO_OK) == (error != NULL));
    if (error != NULL) {
        CHECK(chiaro_error_status(error) == status && chiaro_error_message(error)[0] != 0 && chiaro_error_json(error)[0] == '{');
        chiaro_error_release(error);
    }
    CHECK(status == CHIARO_OK || json == NULL);
    chiaro_text_free(json);
}

int main(int count, char **words)
{
    long calls = count > 1 ? atol(words[1]) : 1000, i;
    chiaro_engine *engine = open_engine();
    chiaro_model *model = NULL;
    chiaro_job *job = NULL, *done = NULL;
    chiaro_image *image = NULL;
    chiaro_request request = small_request("a red ball", 1);
    OK(chiaro_model_load(engine, NULL, &model, &error));
    OK(chiaro_job_new(model, &request, &done, &error));
    OK(chiaro_job_run(done, &error));
    OK(chiaro_job_image(done, 0, &image, &error));
    /* One that has ended: its steps are told, and cost nothing. */
    job = done;
    for (i = 0; i < calls; ++i)
        one(engine, model, job, image);
    /* All of them are as they were. */
    request.seed = 1;
    job = NULL;
    OK(chiaro_job_new(model, &request, &job, &error));
    OK(chiaro_job_run(job, &error));
    chiaro_job_release(job);
    chiaro_image_release(image);
    chiaro_job_release(done);
    chiaro_model_release(model);
    chiaro_engine_release(engine);
    printf("%ld calls\n", calls);
    return 0;
}
