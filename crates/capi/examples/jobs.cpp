// Two models, four jobs at once, one of them cancelled: jobs FOLDER [DEVICE]
//
//     c++ -std=c++17 jobs.cpp -o jobs $(pkg-config --cflags --libs chiaro)
#include <chiaro.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// Handles that give themselves back.
template <auto release> struct Release {
    template <typename T> void operator()(T *handle) const { release(handle); }
};
using Engine = std::unique_ptr<chiaro_engine, Release<chiaro_engine_release>>;
using Model = std::unique_ptr<chiaro_model, Release<chiaro_model_release>>;
using Job = std::unique_ptr<chiaro_job, Release<chiaro_job_release>>;
using Image = std::unique_ptr<chiaro_image, Release<chiaro_image_release>>;
using Error = std::unique_ptr<chiaro_error, Release<chiaro_error_release>>;

// An error with its status.
struct Failure : std::runtime_error {
    chiaro_status status;
    Failure(chiaro_status status, const char *message) : std::runtime_error(message), status(status) {}
};

// Calls a function whose last parameter is the error.
template <typename Function, typename... Arguments> void call(Function function, Arguments... arguments)
{
    chiaro_error *raw = nullptr;
    const chiaro_status status = function(arguments..., &raw);
    const Error error(raw);
    if (status != CHIARO_OK)
        throw Failure(status, chiaro_error_message(error.get()));
}

// What a job tells: its pictures are kept, one job is cancelled after its first step.
struct Listener {
    bool cancels = false;
    std::vector<Image> images;
    std::atomic<unsigned> steps{0};

    static void hear(chiaro_job *job, const chiaro_event *event, void *user)
    {
        auto &self = *static_cast<Listener *>(user);
        if (event->kind == CHIARO_EVENT_STEP && ++self.steps == 1 && self.cancels)
            chiaro_job_cancel(job);
        if (event->kind == CHIARO_EVENT_PICTURE)
            self.images.emplace_back(chiaro_image_retain(event->picture));
    }
};

} // namespace

int main(int count, char **words)
try {
    if (count < 2) {
        std::fprintf(stderr, "usage: %s FOLDER [DEVICE]\n", words[0]);
        return 2;
    }
    const std::string folder = words[1];
    chiaro_engine_options options = CHIARO_ENGINE_OPTIONS_INIT;
    options.device = count > 2 ? words[2] : "auto";
    chiaro_engine *raw_engine = nullptr;
    call(chiaro_engine_new, &options, &raw_engine);
    const Engine engine(raw_engine);

    // The demo model with and without One More Step: two models that share all but the module.
    std::vector<Model> models;
    for (const char *oms : {"demo", "off"}) {
        chiaro_load_options load = CHIARO_LOAD_OPTIONS_INIT;
        load.oms = oms;
        chiaro_model *raw = nullptr;
        call(chiaro_model_load, engine.get(), &load, &raw);
        models.emplace_back(raw);
    }

    const char *prompts[] = {"a red ball", "a blue house", "a solid black image", "a green circle"};
    std::vector<std::unique_ptr<Listener>> listeners;
    std::vector<Job> jobs;
    for (unsigned i = 0; i < 4; ++i) {
        chiaro_request request = CHIARO_REQUEST_INIT;
        request.prompt = prompts[i];
        request.steps = 8;
        request.seed = i;
        chiaro_job *raw = nullptr;
        call(chiaro_job_new, models[i % 2].get(), &request, &raw);
        jobs.emplace_back(raw);
        listeners.push_back(std::make_unique<Listener>());
        listeners.back()->cancels = i == 3;
    }
    for (unsigned i = 0; i < 4; ++i)
        call(chiaro_job_start, jobs[i].get(), &Listener::hear, static_cast<void *>(listeners[i].get()));
    for (unsigned i = 0; i < 4; ++i) {
        call(chiaro_job_wait, jobs[i].get(), std::int64_t{-1});
        const chiaro_status status = chiaro_job_status(jobs[i].get(), nullptr);
        std::printf("%s: %s, %u steps\n", prompts[i], chiaro_status_text(status), listeners[i]->steps.load());
        for (const auto &image : listeners[i]->images) {
            const std::string path = folder + "/" + std::to_string(i) + ".png";
            call(chiaro_image_save, image.get(), path.c_str(), 1u);
        }
    }
    return 0;
} catch (const Failure &failure) {
    std::fprintf(stderr, "%s (%d)\n", failure.what(), static_cast<int>(failure.status));
    return 1;
}
