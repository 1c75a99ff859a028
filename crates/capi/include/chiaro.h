/*
 * chiaro.h: Stable Diffusion with One More Step, for programs in C and whatever calls C.
 *
 *     chiaro_engine *engine = NULL;
 *     chiaro_model *model = NULL;
 *     chiaro_job *job = NULL;
 *     chiaro_image *image = NULL;
 *     chiaro_error *error = NULL;
 *     chiaro_request request = CHIARO_REQUEST_INIT;
 *     request.prompt = "a red ball";
 *     if (chiaro_engine_new(NULL, &engine, &error) == CHIARO_OK &&
 *         chiaro_model_load(engine, NULL, &model, &error) == CHIARO_OK &&
 *         chiaro_job_new(model, &request, &job, &error) == CHIARO_OK &&
 *         chiaro_job_run(job, &error) == CHIARO_OK &&
 *         chiaro_job_image(job, 0, &image, &error) == CHIARO_OK) { ... }
 *     else fprintf(stderr, "%s\n", chiaro_error_message(error));
 *
 * Handles. Objects are opaque and counted: what a function gives in an out-parameter is the caller's and is given back with the type's `_release`;
 * `_retain` adds an owner and gives the handle. `_release(NULL)` does nothing. An object holds what it was made of, so the order of releases is free.
 *
 * Errors. Functions that can fail give a chiaro_status, CHIARO_OK being 0. A last parameter `error`, which may be NULL, is set to an error object in
 * that case (release it) and left alone otherwise. Out-parameters are set to NULL or left alone when a function fails. No function prints, ends the
 * process or lets a fault of its own out: that is CHIARO_INTERNAL, after which only the release of the objects involved makes sense.
 *
 * Structs. The first member is `struct_size`, set by the `_INIT` macros; a zero anywhere else means the default. Members are only ever added at the
 * end: a program that was compiled with an older header works with a newer library. One with a newer header works with an older library as long as
 * the members that this does not know are zero, and gets CHIARO_VERSION_MISMATCH otherwise.
 *
 * Texts are UTF-8 and end with a zero byte. A `const char *` that is given out belongs to its object and lives as long.
 *
 * Threads. `any`: from any thread at any time. `one`: from one thread at a time per object. Callbacks run on the thread that is named with each,
 * never after the release of the last handle of their object has returned, and may call what is marked `callback`.
 *
 *     any, callback    chiaro_version*, chiaro_abi_version, chiaro_status_text, chiaro_error_*, chiaro_image_*, chiaro_text_free, chiaro_job_cancel,
 *                      chiaro_job_progress, every _retain, every _release but that of the job that calls back
 *     any              chiaro_device_*, chiaro_engine_*, chiaro_model_*, chiaro_inspect, chiaro_plan, chiaro_job_new*, chiaro_job_wait,
 *                      chiaro_job_image*, chiaro_job_status
 *     one              chiaro_job_step, chiaro_job_run, chiaro_job_start
 *     signal handler   chiaro_job_cancel
 *
 * Jobs of one model, and of several models on one device, may run at once from several threads; they take turns, a step each. After fork() a child
 * may only release.
 */
#ifndef CHIARO_H
#define CHIARO_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && !defined(CHIARO_STATIC)
#define CHIARO_API __declspec(dllimport)
#else
#define CHIARO_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header; the library's own is chiaro_version(). */
#define CHIARO_VERSION_MAJOR 0
#define CHIARO_VERSION_MINOR 1
#define CHIARO_VERSION_PATCH 0
/* Major, minor and patch in one number, larger for what is newer. */
#define CHIARO_VERSION (CHIARO_VERSION_MAJOR * 1000000 + CHIARO_VERSION_MINOR * 1000 + CHIARO_VERSION_PATCH)
/* Changes when programs have to be compiled again. It is in the library's file name too (libchiaro.so.0). */
#define CHIARO_ABI_VERSION 0

typedef struct chiaro_engine chiaro_engine;
typedef struct chiaro_model chiaro_model;
typedef struct chiaro_job chiaro_job;
typedef struct chiaro_image chiaro_image;
typedef struct chiaro_error chiaro_error;

/* ---- Status ---------------------------------------------------------------------------------------------------------------------------------- */

/* Numbers are fixed for ever; new ones may come, so treat what is unknown as an error. */
typedef int32_t chiaro_status;
#define CHIARO_OK 0
/* An argument, or a field of a request, that cannot be: ask for something else. */
#define CHIARO_INVALID_ARGUMENT 1
/* The device has not, or not so large, what is asked; a kernel does not compile on it. */
#define CHIARO_UNSUPPORTED 2
/* A model's file or folder that is missing, damaged, or something else. */
#define CHIARO_MODEL 3
/* A file that could not be read or written; a reader or writer that failed. */
#define CHIARO_IO 4
/* Memory, of the device or the host: ask for less, or when others have ended. */
#define CHIARO_OUT_OF_MEMORY 5
/* The device refused something. */
#define CHIARO_DEVICE 6
/* The device is gone: chiaro_engine_recover(), then ask again. */
#define CHIARO_DEVICE_LOST 7
/* chiaro_job_cancel() was called, or a progress callback said so. */
#define CHIARO_CANCELLED 8
/* A network overflowed; single precision, or another model. */
#define CHIARO_NON_FINITE 9
/* The object is in use by another call, or already did what is asked. */
#define CHIARO_BUSY 10
/* A struct or a library of a version that is not known. */
#define CHIARO_VERSION_MISMATCH 11
/* A fault of this library. Nothing but the release of the objects involved makes sense. */
#define CHIARO_INTERNAL 12

/* What a status means, in a few words; for an unknown one too. Static. */
CHIARO_API const char *chiaro_status_text(chiaro_status status);

/* The status that came with the error; CHIARO_OK of NULL. */
CHIARO_API chiaro_status chiaro_error_status(const chiaro_error *error);
/* One line: where, what was expected, what came. "" of NULL. */
CHIARO_API const char *chiaro_error_message(const chiaro_error *error);
/* For programs: {"status": 1, "code": "request", "message": …, "field": …, "file": …, "tensor": …, "wanted": bytes, "available": bytes,
 * "remedies": […]}, with the members that are known. "{}" of NULL. */
CHIARO_API const char *chiaro_error_json(const chiaro_error *error);
CHIARO_API chiaro_error *chiaro_error_retain(chiaro_error *error);
CHIARO_API void chiaro_error_release(chiaro_error *error);

/* Frees a text that a function gave in a `char **`. NULL does nothing. */
CHIARO_API void chiaro_text_free(char *text);

/* ---- Version --------------------------------------------------------------------------------------------------------------------------------- */

/* The library's version, as CHIARO_VERSION counts. */
CHIARO_API uint32_t chiaro_version(void);
/* "0.1.0". Static. */
CHIARO_API const char *chiaro_version_text(void);
/* The library's CHIARO_ABI_VERSION. */
CHIARO_API uint32_t chiaro_abi_version(void);
/* CHIARO_OK where a program that was compiled with this CHIARO_VERSION and CHIARO_ABI_VERSION works with the library, else CHIARO_VERSION_MISMATCH. */
CHIARO_API chiaro_status chiaro_version_check(uint32_t version, uint32_t abi_version);

/* ---- Devices --------------------------------------------------------------------------------------------------------------------------------- */

#define CHIARO_KIND_DISCRETE 1
#define CHIARO_KIND_INTEGRATED 2
#define CHIARO_KIND_VIRTUAL 3
#define CHIARO_KIND_SOFTWARE 4
/* The processor, which computes everything by itself; always the last in the list. */
#define CHIARO_KIND_HOST 5

typedef struct chiaro_device_info {
    uint32_t struct_size;
    /* CHIARO_KIND_… */
    uint32_t kind;
    /* Position in the list. */
    uint32_t index;
    /* Devices of one number are several ways to one GPU. */
    uint32_t gpu;
    /* PCI's numbers; 0 where there are none. */
    uint32_t vendor;
    uint32_t device;
    /* Texts, cut where they are longer. "Vulkan", "Metal", "Dx12" or "Host". */
    char name[256];
    char backend[16];
    char driver[256];
    /* "0000:03:00.0"; "" where it is not known. */
    char pci[32];
    /* As VkPhysicalDeviceIDProperties has them. A LUID holds until the system is started anew. */
    uint8_t uuid[16];
    uint8_t luid[8];
    uint32_t has_uuid;
    uint32_t has_luid;
    /* Bytes of the device's own memory; 0 where it is not known. */
    uint64_t memory_bytes;
    /* The largest buffer, and the largest part of one that a kernel sees. */
    uint64_t max_buffer_bytes;
    uint64_t max_binding_bytes;
    /* Whether half precision is there. */
    uint32_t has_f16;
    uint32_t has_subgroups;
    /* Side of the matrices that it multiplies at once; 0 without. */
    uint32_t matrix_size;
    /* What `chiaro doctor` found of it: 0 it was not examined, 1 right, 2 right without some tiers, 3 wrong (passed over by "auto"). */
    uint32_t examined;
} chiaro_device_info;
#define CHIARO_DEVICE_INFO_INIT { sizeof(chiaro_device_info), 0, 0, 0, 0, 0, {0}, {0}, {0}, {0}, {0}, {0}, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* How many devices there are, the processor included: at least 1. Asks the drivers each time. */
CHIARO_API size_t chiaro_device_count(void);
/* Describes device `index`. CHIARO_INVALID_ARGUMENT beyond the last. */
CHIARO_API chiaro_status chiaro_device_get(size_t index, chiaro_device_info *info, chiaro_error **error);

/* ---- Engine ---------------------------------------------------------------------------------------------------------------------------------- */

#define CHIARO_LOG_WARNING 1
#define CHIARO_LOG_INFO 2
/* Called on the thread whose call has something to say; `message` is one line and lives during the call. */
typedef void (*chiaro_log_callback)(uint32_t level, const char *message, void *user);

#define CHIARO_PRECISION_AUTO 0
#define CHIARO_PRECISION_F16 1
#define CHIARO_PRECISION_F32 2
#define CHIARO_PRECISION_BF16 3

#define CHIARO_WHEN_AUTO 0
#define CHIARO_WHEN_ON 1
#define CHIARO_WHEN_OFF 2

typedef struct chiaro_engine_options {
    uint32_t struct_size;
    /* How activations are stored, CHIARO_PRECISION_…: AUTO is f16 where the device has it, redone in f32 where that overflows.
     * BF16: the processor rounds operands of products to bf16; INVALID_ARGUMENT on GPUs and where it has no instructions for that. On Linux the
     * process then asks for AMX's tiles once, after which signal stacks that the program sets up need room for them, 8 KiB more. */
    uint32_t precision;
    /* "auto" (NULL is the same), "cpu", "vulkan", "metal", "dx12", an index of the list, or a part of a name. */
    const char *device;
    /* In place of it, 16 bytes of a UUID, 8 bytes of a LUID, or a PCI address as chiaro_device_info has it. At most one of the four. */
    const uint8_t *uuid;
    const uint8_t *luid;
    const char *pci;
    /* How weights are stored: "auto" (NULL), "f16", "q8_0", "q4_0", or by part as "unet=q8_0,text=f16". */
    const char *weights;
    /* Bytes of compiled networks and weights that stay on the device from picture to picture; the least recently used goes first. 0: as many as the
     * device allows. */
    uint64_t resident_bytes;
    /* CHIARO_WHEN_OFF: nothing stays; a picture takes the least memory. */
    uint32_t residency;
    /* The autoencoder in bands: AUTO where it does not fit otherwise. */
    uint32_t vae_tiling;
    /* Weights move to the device in every step: AUTO where they do not fit otherwise. */
    uint32_t stream_weights;
    /* The most that is logged: 0 nothing, CHIARO_LOG_WARNING, CHIARO_LOG_INFO. */
    uint32_t log_level;
    chiaro_log_callback log;
    void *log_user;
    /* Folders in which models and parts are found by name, separated as PATH's are; NULL: paths alone. */
    const char *model_folders;
    /* A file in which SHA-256 of weight files are kept, so that they are computed once; NULL: nowhere. */
    const char *hash_file;
} chiaro_engine_options;
#define CHIARO_ENGINE_OPTIONS_INIT { sizeof(chiaro_engine_options), 0, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL }

/* Opens a device. `options` NULL is the default: the best hardware GPU that works, else the processor. */
CHIARO_API chiaro_status chiaro_engine_new(const chiaro_engine_options *options, chiaro_engine **engine, chiaro_error **error);
CHIARO_API chiaro_engine *chiaro_engine_retain(chiaro_engine *engine);
CHIARO_API void chiaro_engine_release(chiaro_engine *engine);

/* What device it is, how it stores, and why others were passed over, as JSON: {"device", "storage", "weights", "remarks"}. */
CHIARO_API chiaro_status chiaro_engine_describe(const chiaro_engine *engine, char **json, chiaro_error **error);

/* Counts from the opening of the device on, but the last, which is of now. */
typedef struct chiaro_statistics {
    uint32_t struct_size;
    uint32_t reserved;
    /* Bytes of weights that were copied to the device and stay there, or pass through. */
    uint64_t uploaded_bytes;
    uint64_t streamed_bytes;
    uint64_t compiled_pipelines;
    uint64_t compiled_programs;
    /* Programs that were there already, and that had to go. */
    uint64_t hits;
    uint64_t evictions;
    /* Bytes that are allocated on the device now. */
    uint64_t allocated_bytes;
} chiaro_statistics;
#define CHIARO_STATISTICS_INIT { sizeof(chiaro_statistics), 0, 0, 0, 0, 0, 0, 0, 0 }
CHIARO_API chiaro_status chiaro_engine_statistics(const chiaro_engine *engine, chiaro_statistics *statistics, chiaro_error **error);

/* Gives up what stays on the device and no job uses. */
CHIARO_API chiaro_status chiaro_engine_trim(chiaro_engine *engine, chiaro_error **error);
/* Opens the device anew after CHIARO_DEVICE_LOST. Models of before have to be loaded again. */
CHIARO_API chiaro_status chiaro_engine_recover(chiaro_engine *engine, chiaro_error **error);

/* ---- A device of the program's own ----------------------------------------------------------------------------------------------------------- */

/* What a Vulkan device was created with, beyond what chiaro_vulkan_required() lists under "always". */
#define CHIARO_VULKAN_F16 1
#define CHIARO_VULKAN_SUBGROUPS 2
/* Set by chiaro_vulkan_create_device(): all that is required is there. */
#define CHIARO_VULKAN_CREATED 4

/* Vulkan's handles, as the program has them: pointers for dispatchable ones. They stay the program's: nothing is destroyed, and they have to outlive
 * the engine and all that was made with it. The queue is used by the engine's calls and jobs: no other thread may submit to it meanwhile. */
typedef struct chiaro_vulkan_device {
    uint32_t struct_size;
    /* The version that the instance was created for, as VK_MAKE_API_VERSION has it; 1.1 or later. */
    uint32_t api_version;
    /* vkGetInstanceProcAddr; NULL: the system's loader. */
    void *get_instance_proc_addr;
    /* VkInstance, VkPhysicalDevice, VkDevice. */
    void *instance;
    void *physical_device;
    void *device;
    uint32_t queue_family;
    uint32_t queue_index;
    /* Names of the extensions that the instance and the device were created with. */
    const char *const *instance_extensions;
    const char *const *device_extensions;
    uint32_t instance_extension_count;
    uint32_t device_extension_count;
    /* CHIARO_VULKAN_… */
    uint32_t features;
    uint32_t reserved;
} chiaro_vulkan_device;
#define CHIARO_VULKAN_DEVICE_INIT { sizeof(chiaro_vulkan_device), 0, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, 0, 0, 0, 0 }

/* What the program has to create its device with, as JSON: extensions, and members of VkPhysicalDevice…Features structs: {"always": {"extensions",
 * "features"}, "f16": {…}, "subgroups": {…}}. Of `device` the instance and the physical device are read, and what goes with them. */
CHIARO_API chiaro_status chiaro_vulkan_required(const chiaro_vulkan_device *device, char **json, chiaro_error **error);
/* Creates a device with all that is required and can be had, and the extensions of `device` beside it, with one queue of its family. Sets its `device`,
 * `queue_index` and `features`. The device is the program's, who destroys it. */
CHIARO_API chiaro_status chiaro_vulkan_create_device(chiaro_vulkan_device *device, chiaro_error **error);
/* An engine on the program's device. Of `options` the choice of a device is not read. */
CHIARO_API chiaro_status chiaro_engine_from_vulkan(
    const chiaro_vulkan_device *device, const chiaro_engine_options *options, chiaro_engine **engine, chiaro_error **error);

/* The same on an ID3D12Device (of D3D12CreateDevice, not of a device factory of its own) or an id<MTLDevice>. Both are the only ones of their GPU in a
 * process, so nothing has to be created in a certain way: the engine has the same device, and a queue of its own. The program may release its
 * device. CHIARO_UNSUPPORTED on other systems, and of other devices. Compiled for those systems; no such system has run it. */
CHIARO_API chiaro_status chiaro_engine_from_d3d12(void *device, const chiaro_engine_options *options, chiaro_engine **engine, chiaro_error **error);
CHIARO_API chiaro_status chiaro_engine_from_metal(void *device, const chiaro_engine_options *options, chiaro_engine **engine, chiaro_error **error);

/* ---- Models ---------------------------------------------------------------------------------------------------------------------------------- */

/* Bytes of a file that the program has. `read_at` fills `buffer` with `size` bytes from `offset` on and gives 0, or anything else where it cannot;
 * from any thread, several at a time. `close`, which may be NULL, is called once, when nothing will be read any more: at the latest when the engine is
 * released with all that was made with it. `user` has to live until then. */
typedef struct chiaro_reader {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t size;
    int32_t (*read_at)(uint64_t offset, uint8_t *buffer, size_t size, void *user);
    void (*close)(void *user);
    void *user;
} chiaro_reader;
#define CHIARO_READER_INIT { sizeof(chiaro_reader), 0, 0, NULL, NULL, NULL }

/* Called on the loading thread before part `done` (from 0) of `of` is loaded; `what` names it. 0 goes on, anything else stops: CHIARO_CANCELLED. */
typedef int32_t (*chiaro_load_callback)(uint32_t done, uint32_t of, const char *what, void *user);

typedef struct chiaro_load_options {
    uint32_t struct_size;
    /* Bytes that a stage may take: weights are stored smaller, streamed, and the autoencoder cut into bands to keep to it. 0: no limit. For
     * pictures of `width`×`height` (0: the model's own size). */
    uint32_t width;
    uint32_t height;
    uint32_t reserved;
    uint64_t memory_limit;
    /* The model: a folder in the layout of diffusers, a single file (safetensors, GGUF, checkpoint), or a name in the engine's folders. NULL with
     * no bytes and no reader: the demo model, which is in the library. At most one of the three. */
    const char *path;
    /* A single file's bytes, which have to stay there until the model and its jobs are released. */
    const uint8_t *bytes;
    size_t size;
    const chiaro_reader *reader;
    /* One More Step: a module's folder, a name, "demo", or "off". NULL: the demo's with the demo model, else none. */
    const char *oms;
    /* Where the module's text encoder is, if its own files point elsewhere; a model's folder or name. */
    const char *oms_text_encoder;
    /* More, as JSON: `model`, `adapters`, `adapter_folder`, `embeddings` and `controls` of a job (docs/OPTIONS.md). What is said above goes before. */
    const char *json;
    chiaro_load_callback progress;
    void *progress_user;
} chiaro_load_options;
#define CHIARO_LOAD_OPTIONS_INIT { sizeof(chiaro_load_options), 0, 0, 0, 0, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL }

/* Opens a model. Headers and small files are read now, weights when they are first needed. `options` NULL: the demo model. A model that the engine
 * has loaded already is shared. */
CHIARO_API chiaro_status chiaro_model_load(
    chiaro_engine *engine, const chiaro_load_options *options, chiaro_model **model, chiaro_error **error);
CHIARO_API chiaro_model *chiaro_model_retain(chiaro_model *model);
CHIARO_API void chiaro_model_release(chiaro_model *model);
/* {"label", "oms", "width", "height", "parts", "adapters", "controls", "embeddings"}. */
CHIARO_API chiaro_status chiaro_model_describe(const chiaro_model *model, char **json, chiaro_error **error);

/* What lies at a path, as `chiaro inspect --json` tells it. No network is loaded. */
CHIARO_API chiaro_status chiaro_inspect(const char *path, char **json, chiaro_error **error);

/* ---- Jobs ------------------------------------------------------------------------------------------------------------------------------------ */

typedef struct chiaro_request {
    uint32_t struct_size;
    /* Pixels, multiples of 8 from 64 to 8192; 0: the model's own size. */
    uint32_t width;
    uint32_t height;
    /* Steps of the sampler, 1 to 1000; 0: 30, or what the sampler was made for. */
    uint32_t steps;
    const char *prompt;
    const char *negative_prompt;
    /* A name as in diffusers, ComfyUI or AUTOMATIC1111's program; NULL: the model's own. */
    const char *sampler;
    /* Guidance weight, 0 to 100; a negative one is the default, 7.5. */
    double guidance;
    uint64_t seed;
    /* Pictures, 1 to 10000, the i-th with seed + i; 0: 1. How many go through the network together, 1 to 64; 0: 1. */
    uint32_t count;
    uint32_t batch;
    /* One More Step: CHIARO_WHEN_AUTO where the model has a module, CHIARO_WHEN_OFF without. */
    uint32_t oms;
    /* Whether events bring a preview of the picture after each so many steps; 0: none. */
    uint32_t preview_every;
    /* Not 0: pictures can be had on the device too, chiaro_image_vulkan(). */
    uint32_t on_device;
    uint32_t reserved;
    /* The module's own prompt; NULL: the prompt. Its guidance, 0 to 100; a negative one is the default. */
    const char *oms_prompt;
    double oms_guidance;
    /* More, as JSON: a job (docs/OPTIONS.md) without `model` and `device`: {"adapters": […], "image": {…}, "request": {"hires": {…}}}. Adapters come
     * to those of the model for this job alone. What is said above goes before. */
    const char *json;
} chiaro_request;
#define CHIARO_REQUEST_INIT { sizeof(chiaro_request), 0, 0, 0, NULL, NULL, NULL, -1.0, 0, 0, 0, 0, 0, 0, 0, NULL, -1.0, NULL }

/* Bytes that a request would take, as `chiaro plan --json` tells them: {"stages": […], "peak_bytes", …}. No weights are read. */
CHIARO_API chiaro_status chiaro_plan(const chiaro_model *model, const chiaro_request *request, char **json, chiaro_error **error);

/* A request, checked and not begun. */
CHIARO_API chiaro_status chiaro_job_new(
    const chiaro_model *model, const chiaro_request *request, chiaro_job **job, chiaro_error **error);
/* A whole job (docs/OPTIONS.md), `version` included, with its model, which the engine loads or has loaded. `device` in it is an error: the engine has one. */
CHIARO_API chiaro_status chiaro_job_new_json(chiaro_engine *engine, const char *json, chiaro_job **job, chiaro_error **error);
CHIARO_API chiaro_job *chiaro_job_retain(chiaro_job *job);
/* The last release cancels a job that runs and waits for its thread. */
CHIARO_API void chiaro_job_release(chiaro_job *job);

#define CHIARO_EVENT_NONE 0
/* All prompts are through the text encoders. */
#define CHIARO_EVENT_ENCODED 1
/* Picture `image` has its first latents from One More Step. */
#define CHIARO_EVENT_OMS 2
/* Step `step` (from 1) of `of` is done for the pictures up to `image`. */
#define CHIARO_EVENT_STEP 3
/* Picture `image` is ready to be drawn again, larger. */
#define CHIARO_EVENT_ENLARGED 4
/* Picture `image` is done; `picture` is it. */
#define CHIARO_EVENT_PICTURE 5
/* All pictures are done. The last event of a job that succeeds. */
#define CHIARO_EVENT_FINISHED 6
/* The job ended with an error, chiaro_job_status() gives it. The last event of one that does not. */
#define CHIARO_EVENT_FAILED 7

typedef struct chiaro_event {
    uint32_t struct_size;
    /* CHIARO_EVENT_… */
    uint32_t kind;
    uint32_t image;
    uint32_t step;
    uint32_t of;
    uint32_t reserved;
    /* Units of work that are done, of all. */
    uint64_t done;
    uint64_t total;
    /* Since the job began, and about how long it still takes; negative where that is not known. */
    double seconds;
    double seconds_left;
    /* The picture, or a preview with CHIARO_EVENT_STEP, or NULL. It lives until the next event of the job; retain it to keep it. */
    chiaro_image *picture;
} chiaro_event;
#define CHIARO_EVENT_INIT { sizeof(chiaro_event), 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, NULL }

/* Does one unit of work on the calling thread and tells what it was. After the last one: CHIARO_EVENT_FINISHED, again and again. */
CHIARO_API chiaro_status chiaro_job_step(chiaro_job *job, chiaro_event *event, chiaro_error **error);
/* Does all that is left on the calling thread. */
CHIARO_API chiaro_status chiaro_job_run(chiaro_job *job, chiaro_error **error);

/* Called on the job's thread; the event lives during the call. */
typedef void (*chiaro_event_callback)(chiaro_job *job, const chiaro_event *event, void *user);
/* Does all that is left on a thread of the job's own. `callback` may be NULL. CHIARO_BUSY the second time. */
CHIARO_API chiaro_status chiaro_job_start(chiaro_job *job, chiaro_event_callback callback, void *user, chiaro_error **error);
/* Waits for a job that was started, at most so many milliseconds (negative: as long as it takes). CHIARO_OK when it has ended, however that was, and
 * has told its last: the callback is not called any more. CHIARO_BUSY when it goes on. Not from the callback. */
CHIARO_API chiaro_status chiaro_job_wait(chiaro_job *job, int64_t milliseconds, chiaro_error **error);
/* How the job ended: CHIARO_OK with all pictures, the error otherwise; CHIARO_BUSY while it has not ended. */
CHIARO_API chiaro_status chiaro_job_status(const chiaro_job *job, chiaro_error **error);
/* Units of work that are done, and all; either may be NULL. */
CHIARO_API void chiaro_job_progress(const chiaro_job *job, uint64_t *done, uint64_t *total);
/* Asks the job to end, also inside a step; it fails with CHIARO_CANCELLED soon after. Often, from any thread, callback or signal handler; NULL does
 * nothing. */
CHIARO_API void chiaro_job_cancel(const chiaro_job *job);
/* Pictures that are done and kept: those of chiaro_job_run(), and of chiaro_job_start() without a callback. Events bring the others. */
CHIARO_API size_t chiaro_job_image_count(const chiaro_job *job);
/* Picture `index` of them, from 0. */
CHIARO_API chiaro_status chiaro_job_image(const chiaro_job *job, size_t index, chiaro_image **image, chiaro_error **error);

/* ---- Images ---------------------------------------------------------------------------------------------------------------------------------- */

CHIARO_API chiaro_image *chiaro_image_retain(chiaro_image *image);
CHIARO_API void chiaro_image_release(chiaro_image *image);
CHIARO_API uint32_t chiaro_image_width(const chiaro_image *image);
CHIARO_API uint32_t chiaro_image_height(const chiaro_image *image);
CHIARO_API uint64_t chiaro_image_seed(const chiaro_image *image);

/* Bytes in the order of their names, sRGB as pictures are; rows from the top. */
#define CHIARO_FORMAT_RGB8 1
#define CHIARO_FORMAT_RGBA8 2
/* Floats of 0…1, sRGB too. */
#define CHIARO_FORMAT_RGBA32F 3
/* Copies the pixels. `stride` is the bytes from row to row; 0: no gap. Too small a `size` is CHIARO_INVALID_ARGUMENT with the bytes that are
 * needed in "wanted" of the error's JSON; the buffer is left alone then. Alpha is opaque. */
CHIARO_API chiaro_status chiaro_image_read(
    const chiaro_image *image, uint32_t format, size_t stride, void *buffer, size_t size, chiaro_error **error);
/* Takes some bytes and gives 0; anything else stops. On the calling thread. */
typedef int32_t (*chiaro_write_callback)(const uint8_t *bytes, size_t size, void *user);
/* The picture as a PNG with its parameters, the bytes that the command `chiaro` would write. A preview has none. */
CHIARO_API chiaro_status chiaro_image_png(const chiaro_image *image, chiaro_write_callback write, void *user, chiaro_error **error);
/* The same into a file, complete or not at all. CHIARO_IO where there is one already, unless `overwrite` is not 0. */
CHIARO_API chiaro_status chiaro_image_save(const chiaro_image *image, const char *path, uint32_t overwrite, chiaro_error **error);
/* All that is needed to draw it again, as JSON; "{}" of a preview. */
CHIARO_API const char *chiaro_image_parameters(const chiaro_image *image);
/* The VkImage (as a number) of a picture that a job of chiaro_engine_from_vulkan() made with `on_device`: VK_FORMAT_R8G8B8A8_UNORM
 * in VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, complete, for the queue family of the device. It lives as long as the image. 0 where there is none. */
CHIARO_API uint64_t chiaro_image_vulkan(const chiaro_image *image);
/* The same as the ID3D12Resource (DXGI_FORMAT_R8G8B8A8_UNORM, in D3D12_RESOURCE_STATE_COPY_DEST) of a job on Direct3D 12, and as the id<MTLTexture>
 * (MTLPixelFormatRGBA8Unorm) of one on Metal, complete. Not retained: it lives as long as the image. NULL where there is none. */
CHIARO_API void *chiaro_image_d3d12(const chiaro_image *image);
CHIARO_API void *chiaro_image_metal(const chiaro_image *image);

#ifdef __cplusplus
}
#endif

#endif
