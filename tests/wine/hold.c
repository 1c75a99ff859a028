// hold SHARE FILE: opens a file as another program would, says "held", and keeps it open until its standard input ends.
// SHARE names what others may do meanwhile: some of the letters r(ead), w(rite), d(elete), or "none"; l locks every byte.
#include <windows.h>
#include <stdio.h>
#include <wchar.h>

int wmain(int count, wchar_t **words) {
  if (count != 3) return 2;
  int locks = wcschr(words[1], L'l') != NULL;
  DWORD share = 0;
  if (wcscmp(words[1], L"none")) {
    share |= wcschr(words[1], L'r') ? FILE_SHARE_READ : 0;
    share |= wcschr(words[1], L'w') ? FILE_SHARE_WRITE : 0;
    share |= wcschr(words[1], L'd') ? FILE_SHARE_DELETE : 0;
  }
  HANDLE file = CreateFileW(words[2], GENERIC_READ, share, NULL, OPEN_EXISTING, 0, NULL);
  OVERLAPPED start = {0};
  if (file == INVALID_HANDLE_VALUE ||
      (locks && !LockFileEx(file, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, MAXDWORD, MAXDWORD, &start))) {
    fprintf(stderr, "hold: error %lu\n", GetLastError());
    return 1;
  }
  puts("held");
  fflush(stdout);
  while (getchar() != EOF) {}
  return 0;
}
