"""Effect sizes of the simulated cohort, each with its source.

Sizes quoted from a source are its medians or means, rounded; "set here" marks a size, and "direction after ..." a size
whose sign alone is the source's, with scatter chosen so that single measurements overlap between groups as they do in
people. Mean voltages and noise levels were set so that QRS, T and noise amplitudes lie near those of 800 records of
PTB-XL (folds 7 to 9, signals only). The cohort is a test bed: it is no evidence about hearts. Vectors point left (x),
to the foot (y) and to the back (z).
"""

import numpy as np

# Effects of sex and age: (women at 50, added in men, per decade in women, per decade in men, scatter)
#: ELSA-Brasil, 11,094 adults (Pinto-Filho et al., Arq Bras Cardiol 109:416, 2017): men 63, women 66 beats a minute;
#: the difference is theirs, the level is set here.
HEART_RATE_BPM = (72.0, -3.0, 0.0, 0.0, 10.0)
#: ELSA-Brasil: men 112, women 108 ms; the rise with age is set here.
P_DURATION_MS = (108.0, 4.0, 2.5, 2.5, 8.0)
#: ELSA-Brasil: men 164, women 158 ms; the rise with age is set here.
PR_MS = (158.0, 6.0, 4.0, 4.0, 15.0)
#: ELSA-Brasil: men 92, women 86 ms; scatter 8 ms in 36,299 women (Rautaharju et al., J Electrocardiol 46:706, 2013).
QRS_MS = (86.0, 6.0, 0.0, 0.0, 6.5)
#: ELSA-Brasil: 11 ms longer in women; the gap narrows with age (Rautaharju et al., Can J Cardiol 8:690, 1992); scatter
#: 14 ms (Rautaharju 2013); age trend after Rijnbeek et al. (J Electrocardiol 47:914, 2014). By Fridericia here.
QTC_MS = (416.0, -11.0, 2.5, 4.5, 13.0)
#: Frontal QRS axis, degrees. ELSA-Brasil: men 35, women 39; leftward with age (direction after Rijnbeek 2014).
QRS_AXIS_DEG = (39.0, -4.0, -6.0, -6.0, 11.0)
#: Logarithm of the QRS voltage: higher in men; left precordial voltage rises in older women and not in men (direction
#: after Rijnbeek 2014); the fall in men is set here.
LOG_VOLTAGE = (0.24, 0.16, 0.015, -0.04, 0.20)
#: T wave towards the left, mV: higher in men, lower with age (direction after Macfarlane et al. eds., Comprehensive
#: Electrocardiology, 2nd ed., 2010, chapter 13).
T_LEFT_MV = (0.22, 0.04, -0.020, -0.028, 0.05)
#: T wave towards the front, mV: V2 of young men is about twice that of women (direction after the same chapter).
T_FRONT_MV = (0.11, 0.11, -0.004, -0.021, 0.05)
#: J point towards the front, mV: V2 of young men reaches 0.1 to 0.2 mV, falling with age; women hardly
#: (direction after Macfarlane, J Electrocardiol 34 suppl:235, 2001).
ST_FRONT_MV = (0.012, 0.045, 0.0, -0.012, 0.015)
#: Late (left atrial) part of P towards the back, mV: grows with age (set here).
P_TERMINAL_MV = (0.030, 0.0, 0.009, 0.009, 0.011)
#: Logarithm of the respiratory sinus arrhythmia, share of RR: rMSSD of the sixth decade is 47 % of the second's
#: (Umetani et al., J Am Coll Cardiol 31:593, 1998), about -0.19 a decade.
LOG_RSA = (np.log(0.018), 0.0, -0.19, -0.19, 0.35)

# Effects of potassium, per mmol/l beyond the normal range
# Directions and their order after Surawicz (Am Heart J 73:814, 1967) and Diercks et al. (J Emerg Med 27:153, 2004):
# first peaked narrow T, then flat P, long PR and wide QRS; below 3.5 flat T, ST depression, U wave. Sizes are set here.
# Galloway et al. (JAMA Cardiol 4:428, 2019) learn hyperkalaemia from the ECG with an area under the curve near 0.87.
POTASSIUM_NORMAL = (3.5, 5.0)
POTASSIUM_ABNORMAL_SHARE = 0.24
HYPERKALAEMIA_SHARE = 0.55
HYPER_T_GAIN = 0.40
HYPER_T_NARROWING = 0.09
HYPER_P_LOSS = 0.22
HYPER_PR_MS = 8.0
HYPER_QRS_MS = 6.0
HYPO_T_LOSS = 0.55
HYPO_ST_MV = -0.06
HYPO_U_MV = 0.13
NORMAL_U_MV = 0.015

# Conduction
#: PR interval, ms. Normal up to 200; 200 to 219 is called borderline, 220 and above first-degree block here (machine
#: statements differ between makers; the usual clinical bound of block is 200).
PR_LIMITS_MS = (122.0, 196.0)
PR_BORDERLINE_MS = (200.0, 219.0)
PR_BLOCK_MS = (220.0, 320.0)
#: Premature beats: coupling as a share of RR; the sinus node is reset by atrial beats (pause shorter than compensatory)
#: and not by ventricular ones (two RR in all).
PAC_COUPLING, PAC_PAUSE = (0.58, 0.75), (1.02, 1.18)
PVC_COUPLING = (0.50, 0.68)
#: Atrial activity in Hz: fibrillation 4 to 9 (Stridh & Sornmo, IEEE Trans Biomed Eng 48:105, 2001), flutter near 5.
FIBRILLATION_HZ, FLUTTER_HZ = (4.5, 8.5), (4.2, 5.4)

#: Directions (x, y, z) of wide beats by origin: right outflow tract, right apex, left apex, left lateral wall.
VENTRICULAR = np.array([[0.35, 0.8, 0.6], [0.7, -0.7, 0.55], [-0.5, -0.75, -0.6], [-0.85, 0.25, -0.5]])
#: Injury vectors (mV) point to the territory; the opposite leads show the reciprocal depression by themselves.
INJURY = {"AMI": (0.15, -0.10, -0.34), "IMI": (-0.05, 0.30, 0.10), "LMI": (0.34, -0.12, 0.05)}
