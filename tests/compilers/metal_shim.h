// What our MSL uses of Metal's language and library, for clang's C++ for OpenCL: its address spaces are as strict as Metal's, objects in each can be
// assigned, and its vectors are those that Metal's are. Names, types and overloads are those of the Metal Shading Language Specification 4; nothing
// is computed. metal.py writes constructors of vectors as `metal::make<V>(...)` and casts as `metal::cast<V>(...)`.
//
// Not seen: booleans of vectors are integers here; alignment of packed vectors; what Metal's optimiser and drivers do.

#pragma OPENCL EXTENSION cl_khr_fp16 : enable

#define threadgroup __local
#define device __global
#define constant __constant
#define thread __private
// OpenCL's rules for a kernel's parameters are not Metal's, nor are these words Metal's.
#define kernel
#define local local_word
#define global global_word
#define private private_word
#define generic generic_word

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

#define VECTORS(type)                                         \
    typedef type type##2 __attribute__((ext_vector_type(2))); \
    typedef type type##3 __attribute__((ext_vector_type(3))); \
    typedef type type##4 __attribute__((ext_vector_type(4)));
VECTORS(float)
VECTORS(half)
VECTORS(int)
VECTORS(uint)
VECTORS(short)
VECTORS(uchar)
typedef ulong ulong2 __attribute__((ext_vector_type(2)));
typedef uchar4 packed_uchar4;

namespace metal {

using ::uint;
using ::float2; using ::float3; using ::float4;
using ::half2; using ::half3; using ::half4;
using ::int2; using ::int3; using ::int4;
using ::uint2; using ::uint3; using ::uint4;
typedef int2 bool2;
typedef int3 bool3;
typedef int4 bool4;

// Element and length of a type, and what it is to functions.
enum kind { none, boolean, integer, floating };
template <typename T>
struct traits {
    enum { length = 0, kind = none };
};
#define TRAITS(type, of, count, is)          \
    template <>                              \
    struct traits<type> {                    \
        typedef of element;                  \
        enum { length = count, kind = is };  \
    };
#define TRAITS_OF(type, is) TRAITS(type, type, 1, is) TRAITS(type##2, type, 2, is) TRAITS(type##3, type, 3, is) TRAITS(type##4, type, 4, is)
TRAITS(bool, bool, 1, boolean)
TRAITS_OF(float, floating)
TRAITS_OF(half, floating)
TRAITS_OF(int, integer)
TRAITS_OF(uint, integer)
TRAITS_OF(short, integer)
TRAITS_OF(uchar, integer)

template <typename A, typename B>
struct same {
    enum { value = 0 };
};
template <typename A>
struct same<A, A> {
    enum { value = 1 };
};

template <typename V, typename... All>
struct filled {
    enum { count = 0 };
};
template <typename V, typename A, typename... Rest>
struct filled<V, A, Rest...> {
    static_assert(same<typename traits<A>::element, typename traits<V>::element>::value, "a vector is made of values of its own type");
    enum { count = (int)traits<A>::length + (int)filled<V, Rest...>::count };
};

// V(a): each element a, or those of a vector of another type.
template <typename V, typename A>
V cast(A) {
    static_assert((int)traits<A>::kind != none, "a number or a vector");
    static_assert((int)traits<A>::length == 1 || (int)traits<A>::length == (int)traits<V>::length, "a vector of another length");
    return V{};
}
template <typename V, typename A>
V make(A a) {
    return cast<V>(a);
}
// V(a, b, ...): as many values as V has.
template <typename V, typename A, typename B, typename... Rest>
V make(A, B, Rest...) {
    static_assert((int)filled<V, A, B, Rest...>::count == (int)traits<V>::length, "too few or too many values");
    return V{};
}

// Functions of one type: arguments that differ are as ambiguous as Metal's overloads are.
#define FUNCTION(name, parameters, is)                                       \
    template <typename T>                                                    \
    T name parameters {                                                      \
        static_assert((int)traits<T>::kind is, #name " takes other types"); \
        return T{};                                                          \
    }
#define ONE (T)
#define TWO (T, T)
#define THREE (T, T, T)
FUNCTION(abs, ONE, >= integer)
FUNCTION(min, TWO, >= integer)
FUNCTION(max, TWO, >= integer)
FUNCTION(clamp, THREE, >= integer)
FUNCTION(fma, THREE, == floating)
FUNCTION(rint, ONE, == floating)
FUNCTION(exp, ONE, == floating)
FUNCTION(exp2, ONE, == floating)
FUNCTION(log, ONE, == floating)
FUNCTION(log2, ONE, == floating)
FUNCTION(sqrt, ONE, == floating)
FUNCTION(rsqrt, ONE, == floating)
FUNCTION(tanh, ONE, == floating)
FUNCTION(floor, ONE, == floating)
FUNCTION(pow, TWO, == floating)
FUNCTION(ctz, ONE, == integer)
FUNCTION(clz, ONE, == integer)
FUNCTION(popcount, ONE, == integer)
FUNCTION(reverse_bits, ONE, == integer)

template <typename T>
typename traits<T>::element dot(T, T) {
    static_assert((int)traits<T>::kind == floating && (int)traits<T>::length > 1, "dot takes vectors of floating-point values");
    return {};
}

template <typename T, typename C>
T select(T, T, C) {
    static_assert((int)traits<C>::length == (int)traits<T>::length, "a condition for each element");
    static_assert((int)traits<C>::kind == boolean || (int)traits<C>::length > 1, "a condition is a boolean");
    return T{};
}

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);

#define SIMD(name)                                                                 \
    template <typename T>                                                          \
    T name(T, ushort) {                                                            \
        static_assert((int)traits<T>::kind >= integer, #name " takes other types"); \
        return T{};                                                                \
    }
SIMD(simd_shuffle)
SIMD(simd_shuffle_xor)
SIMD(simd_shuffle_up)
SIMD(simd_shuffle_down)
SIMD(simd_broadcast)
FUNCTION(simd_sum, ONE, >= integer)
FUNCTION(simd_max, ONE, >= integer)
FUNCTION(simd_min, ONE, >= integer)

template <typename T>
struct simdgroup_matrix {
    T opaque[2];
};
typedef simdgroup_matrix<float> simdgroup_float8x8;
typedef simdgroup_matrix<half> simdgroup_half8x8;

#define MOVES(space)                                                                                                     \
    template <typename T>                                                                                                \
    void simdgroup_load(thread simdgroup_matrix<T>&, const space T*, ulong = 8, ulong2 = 0, bool = false) {}             \
    template <typename T>                                                                                                \
    void simdgroup_store(simdgroup_matrix<T>, space T*, ulong = 8, ulong2 = 0, bool = false) {}
MOVES(device)
MOVES(threadgroup)
template <typename D, typename A, typename B, typename C>
void simdgroup_multiply_accumulate(thread simdgroup_matrix<D>&, simdgroup_matrix<A>, simdgroup_matrix<B>, simdgroup_matrix<C>) {
    static_assert(same<D, C>::value && same<A, B>::value && (int)traits<A>::kind == floating, "matrices of other types");
}

// Metal Shading Language 6.15: atomics are of memory that kernels share, and in no order.
struct atomic_uint {
    uint only_by_functions;
};
enum memory_order { memory_order_relaxed };
uint atomic_fetch_add_explicit(device atomic_uint *, uint, memory_order) { return 0; }
void atomic_store_explicit(device atomic_uint *, uint, memory_order) {}

}  // namespace metal

// Bits of a value as another type of the same size.
template <typename T, typename A>
T as_type(A) {
    static_assert((int)metal::traits<A>::kind != metal::none && (int)metal::traits<T>::kind != metal::none, "a number or a vector");
    static_assert(sizeof(T) == sizeof(A), "a type of another size");
    return T{};
}
