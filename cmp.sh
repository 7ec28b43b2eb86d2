cd /tmp/flags-mt
for a in "200 -c 1024" "140 -c 1024" "260" ; do PYTHONPATH=/tmp/flags-mt timeout 120 /work/wt/devices/.venv/bin/python cmp.py $a 2>&1 | head -8 | cut -c1-1500; done
