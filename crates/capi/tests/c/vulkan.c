/* vulkan PICTURE.png: an engine on this program's own Vulkan device. The picture that stays there has the bytes of the one that comes back, and the
 * device is the program's afterwards. */
#include "check.h"
#include <vulkan/vulkan.h>

/* Vulkan's structs are zero but for what is said. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define VK(call) CHECK((call) == VK_SUCCESS)

static VkInstance instance;
static VkPhysicalDevice physical;
static VkDevice device;
static VkQueue queue;

static uint32_t memory_type(uint32_t bits, VkMemoryPropertyFlags wanted)
{
    VkPhysicalDeviceMemoryProperties memory;
    uint32_t i;
    vkGetPhysicalDeviceMemoryProperties(physical, &memory);
    for (i = 0; i < memory.memoryTypeCount; ++i)
        if ((bits >> i & 1) && (memory.memoryTypes[i].propertyFlags & wanted) == wanted)
            return i;
    CHECK(0);
    return 0;
}

/* Copies an image in VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL to host memory. */
static void read_image(VkImage image, uint32_t width, uint32_t height, unsigned char *pixels)
{
    VkBufferCreateInfo buffer_info = {VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
    VkMemoryAllocateInfo allocate = {VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
    VkCommandPoolCreateInfo pool_info = {VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    VkCommandBufferAllocateInfo commands_info = {VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
    VkCommandBufferBeginInfo begin = {VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    VkImageMemoryBarrier barrier = {VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER};
    VkSubmitInfo submit = {VK_STRUCTURE_TYPE_SUBMIT_INFO};
    VkBufferImageCopy copy;
    VkMemoryRequirements needs;
    VkBuffer buffer;
    VkDeviceMemory memory;
    VkCommandPool pool;
    VkCommandBuffer commands;
    void *mapped;
    buffer_info.size = (VkDeviceSize)width * height * 4;
    buffer_info.usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT;
    VK(vkCreateBuffer(device, &buffer_info, NULL, &buffer));
    vkGetBufferMemoryRequirements(device, buffer, &needs);
    allocate.allocationSize = needs.size;
    allocate.memoryTypeIndex = memory_type(needs.memoryTypeBits, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT);
    VK(vkAllocateMemory(device, &allocate, NULL, &memory));
    VK(vkBindBufferMemory(device, buffer, memory, 0));
    VK(vkCreateCommandPool(device, &pool_info, NULL, &pool));
    commands_info.commandPool = pool;
    commands_info.commandBufferCount = 1;
    VK(vkAllocateCommandBuffers(device, &commands_info, &commands));
    VK(vkBeginCommandBuffer(commands, &begin));
    barrier.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT;
    barrier.dstAccessMask = VK_ACCESS_TRANSFER_READ_BIT;
    barrier.oldLayout = VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL;
    barrier.newLayout = VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL;
    barrier.srcQueueFamilyIndex = barrier.dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED;
    barrier.image = image;
    barrier.subresourceRange.aspectMask = VK_IMAGE_ASPECT_COLOR_BIT;
    barrier.subresourceRange.levelCount = barrier.subresourceRange.layerCount = 1;
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_TRANSFER_BIT, 0, 0, NULL, 0, NULL, 1, &barrier);
    memset(&copy, 0, sizeof copy);
    copy.imageSubresource.aspectMask = VK_IMAGE_ASPECT_COLOR_BIT;
    copy.imageSubresource.layerCount = 1;
    copy.imageExtent.width = width;
    copy.imageExtent.height = height;
    copy.imageExtent.depth = 1;
    vkCmdCopyImageToBuffer(commands, image, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, buffer, 1, &copy);
    VK(vkEndCommandBuffer(commands));
    submit.commandBufferCount = 1;
    submit.pCommandBuffers = &commands;
    VK(vkQueueSubmit(queue, 1, &submit, VK_NULL_HANDLE));
    VK(vkQueueWaitIdle(queue));
    VK(vkMapMemory(device, memory, 0, VK_WHOLE_SIZE, 0, &mapped));
    memcpy(pixels, mapped, (size_t)width * height * 4);
    vkUnmapMemory(device, memory);
    vkDestroyCommandPool(device, pool, NULL);
    vkDestroyBuffer(device, buffer, NULL);
    vkFreeMemory(device, memory, NULL);
}

static uint32_t compute_family(void)
{
    VkQueueFamilyProperties families[16];
    uint32_t count = 16, i;
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &count, families);
    for (i = 0; i < count; ++i)
        if (families[i].queueFlags & VK_QUEUE_COMPUTE_BIT)
            return i;
    CHECK(0);
    return 0;
}

int main(int count, char **words)
{
    VkApplicationInfo application = {VK_STRUCTURE_TYPE_APPLICATION_INFO};
    VkInstanceCreateInfo instance_info = {VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
    chiaro_vulkan_device lent = CHIARO_VULKAN_DEVICE_INIT;
    chiaro_request request = small_request("a red ball", 3);
    chiaro_engine *engine = NULL;
    chiaro_model *model = NULL;
    chiaro_job *job = NULL;
    chiaro_image *image = NULL;
    chiaro_error *error = NULL;
    char *json = NULL;
    uint32_t devices = 1, i;
    static unsigned char on_device[64 * 64 * 4], read[64 * 64 * 4];
    application.apiVersion = VK_API_VERSION_1_2;
    instance_info.pApplicationInfo = &application;
    VK(vkCreateInstance(&instance_info, NULL, &instance));
    {
        VkResult listed = vkEnumeratePhysicalDevices(instance, &devices, &physical);
        CHECK((listed == VK_SUCCESS || listed == VK_INCOMPLETE) && devices == 1);
    }
    engine = open_engine();
    chiaro_engine_release(engine);
    engine = NULL;
    CHECK(chiaro_engine_from_vulkan(&lent, NULL, &engine, &error) == CHIARO_INVALID_ARGUMENT && engine == NULL);
    chiaro_error_release(error);
    error = NULL;
    lent.api_version = VK_API_VERSION_1_2;
    lent.get_instance_proc_addr = (void *)vkGetInstanceProcAddr;
    lent.instance = instance;
    lent.physical_device = physical;
    lent.queue_family = compute_family();
    OK(chiaro_vulkan_required(&lent, &json, &error));
    printf("%s\n", json);
    chiaro_text_free(json);
    OK(chiaro_vulkan_create_device(&lent, &error));
    device = lent.device;
    vkGetDeviceQueue(device, lent.queue_family, lent.queue_index, &queue);
    for (i = 0; i < 2; ++i) {
        /* Twice: an engine leaves the device as it was. */
        OK(chiaro_engine_from_vulkan(&lent, NULL, &engine, &error));
        OK(chiaro_model_load(engine, NULL, &model, &error));
        request.on_device = 1;
        OK(chiaro_job_new(model, &request, &job, &error));
        OK(chiaro_job_run(job, &error));
        OK(chiaro_job_image(job, 0, &image, &error));
        chiaro_job_release(job);
        chiaro_model_release(model);
        chiaro_engine_release(engine);
        CHECK(chiaro_image_vulkan(image) != 0);
        read_image((VkImage)(uintptr_t)chiaro_image_vulkan(image), 64, 64, on_device);
        OK(chiaro_image_read(image, CHIARO_FORMAT_RGBA8, 0, read, sizeof read, &error));
        CHECK(memcmp(on_device, read, sizeof read) == 0);
        if (i == 0 && count > 1)
            OK(chiaro_image_save(image, words[1], 1, &error));
        chiaro_image_release(image);
    }
    VK(vkDeviceWaitIdle(device));
    vkDestroyDevice(device, NULL);
    vkDestroyInstance(instance, NULL);
    return 0;
}
