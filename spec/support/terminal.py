"""terminal.py COLUMNS INTERRUPT COMMAND... - run a command on a terminal of its own, of so many columns.

INTERRUPT: Ctrl-C is typed so many seconds after the first status line was drawn; 0: never.  Prints what the terminal
showed, then a line "status=N", N as a shell has it (128 + the signal).  Gives up after 120 seconds.
"""
import fcntl, os, pty, select, struct, sys, termios, time

columns, interrupt, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.execvp(command[0], command)
shown, drawn, end = b"", None, time.time() + 120
while time.time() < end:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
        if drawn is None and b"\x1b[K" in shown:
            drawn = time.time()
    if interrupt and drawn and time.time() > drawn + interrupt:
        os.write(terminal, b"\x03")
        interrupt = 0
else:
    os.kill(pid, 9)
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(shown)
print("\nstatus=%d" % (128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)))
