// interrupt FILE PROGRAM ARGUMENT...: starts a program on a console of its own, presses Ctrl-C there when FILE exists, and writes the exit
// code into interrupted.txt.
#include <windows.h>
#include <stdio.h>
#include <wchar.h>

int wmain(int count, wchar_t **words) {
  static wchar_t line[32768];
  if (count < 3) return 2;
  for (int i = 2; i < count; i++) {
    wcscat(line, i > 2 ? L" \"" : L"\"");
    wcscat(line, words[i]);
    wcscat(line, L"\"");
  }
  FreeConsole();
  AllocConsole();
  STARTUPINFOW startup = {.cb = sizeof startup, .dwFlags = STARTF_USESTDHANDLES};
  startup.hStdOutput = startup.hStdError = GetStdHandle(STD_OUTPUT_HANDLE);
  PROCESS_INFORMATION child;
  if (!CreateProcessW(NULL, line, NULL, NULL, TRUE, 0, NULL, NULL, &startup, &child)) {
    fprintf(stderr, "interrupt: error %lu\n", GetLastError());
    return 1;
  }
  // After the child is there: it would inherit that Ctrl-C is ignored.
  SetConsoleCtrlHandler(NULL, TRUE);
  for (int tenths = 0; GetFileAttributesW(words[1]) == INVALID_FILE_ATTRIBUTES && tenths < 600; tenths++) Sleep(100);
  int pressed = GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0);
  DWORD code = 0;
  if (WaitForSingleObject(child.hProcess, 30000) != WAIT_OBJECT_0) {
    TerminateProcess(child.hProcess, 99);
    WaitForSingleObject(child.hProcess, 30000);
  }
  GetExitCodeProcess(child.hProcess, &code);
  FILE *told = fopen("interrupted.txt", "w");
  fprintf(told, "pressed %d, exit code %08lx\n", pressed, code);
  fclose(told);
  return 0;
}
