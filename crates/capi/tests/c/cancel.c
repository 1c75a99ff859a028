/* cancel COUNT: so many jobs cancelled from another thread, at each kind of event and in between; memory is at its base after each. */
#include "check.h"
#include <pthread.h>
#include <unistd.h>

struct plan {
    chiaro_job *job;
    unsigned microseconds;
};

static void *cancel_later(void *argument)
{
    struct plan *plan = argument;
    usleep(plan->microseconds);
    chiaro_job_cancel(plan->job);
    chiaro_job_cancel(plan->job);
    return NULL;
}

static void cancel_at(chiaro_job *job, const chiaro_event *event, void *user)
{
    if (event->kind == *(uint32_t *)user)
        chiaro_job_cancel(job);
}

static uint64_t allocated(chiaro_engine *engine)
{
    chiaro_statistics now = CHIARO_STATISTICS_INIT;
    OK(chiaro_engine_statistics(engine, &now, &error));
    return now.allocated_bytes;
}

int main(int count, char **words)
{
    long times = count > 1 ? atol(words[1]) : 20, i, cancelled = 0;
    chiaro_engine *engine = open_engine();
    chiaro_model *model = NULL;
    chiaro_job *job = NULL;
    chiaro_request request = small_request("a red ball", 3);
    static const uint32_t kinds[] = {CHIARO_EVENT_ENCODED, CHIARO_EVENT_OMS, CHIARO_EVENT_STEP, CHIARO_EVENT_PICTURE};
    uint64_t base, random = 1;
    OK(chiaro_model_load(engine, NULL, &model, &error));
    OK(chiaro_job_new(model, &request, &job, &error));
    OK(chiaro_job_run(job, &error));
    chiaro_job_release(job);
    base = allocated(engine);
    for (i = 0; i < times; ++i) {
        chiaro_status status;
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        OK(chiaro_job_new(model, &request, &job, &error));
        if (i % 4 == 0) {
            uint32_t kind = kinds[(i / 4) % 4];
            OK(chiaro_job_start(job, cancel_at, &kind, &error));
            OK(chiaro_job_wait(job, -1, &error));
            status = chiaro_job_status(job, NULL);
            /* After the picture there is nothing left to cancel. */
            CHECK(status == (kind == CHIARO_EVENT_PICTURE ? CHIARO_OK : CHIARO_CANCELLED) || status == CHIARO_CANCELLED);
            chiaro_job_release(job);
        } else if (i % 4 == 1) {
            /* Released while it runs. */
            OK(chiaro_job_start(job, NULL, NULL, &error));
            usleep((unsigned)(random >> 40) % 40000);
            chiaro_job_release(job);
            status = CHIARO_CANCELLED;
        } else {
            struct plan plan;
            pthread_t thread;
            plan.job = job;
            plan.microseconds = (unsigned)(random >> 40) % 60000;
            CHECK(pthread_create(&thread, NULL, cancel_later, &plan) == 0);
            status = chiaro_job_run(job, NULL);
            CHECK(pthread_join(thread, NULL) == 0);
            CHECK(status == CHIARO_OK || status == CHIARO_CANCELLED);
            CHECK(chiaro_job_status(job, NULL) == status);
            chiaro_job_release(job);
        }
        cancelled += status == CHIARO_CANCELLED;
        CHECK(allocated(engine) == base);
    }
    CHECK(cancelled > times / 4);
    OK(chiaro_job_new(model, &request, &job, &error));
    OK(chiaro_job_run(job, &error));
    CHECK(chiaro_job_image_count(job) == 1);
    chiaro_job_release(job);
    chiaro_model_release(model);
    chiaro_engine_release(engine);
    printf("%ld cancels of %ld jobs\n", cancelled, times);
    return 0;
}
