"""A HEIC of 48 x 32 pixels in each of the eight orientations: pi-heif reads HEIC and does not write it."""

import base64
import zlib

_PACKED = (
    "c-rlk2~-nF8pk^cY7|s1<xs*QBBC5RqQn8i<t-}cprTxc06}6xh)6&Ppoj=6I$j(ihzKKcAA)j<4j>{TAP7PN0xCoa5)u%Snhs`t"
    "JF`2?KIc8(+g&TE{=TZNO1dk*|GzpYGz38lU1@ZRJAsIYbBIKAT_MUzL}ynBLIjWqG-v2@QFnLoq>6KhLd4UcKNJn3CwcNiEKMN<"
    "{DKQ2@pFVTH~6rKNIdNNxe3>KaD#vpx7>a3D@5rW3Xw+oGDJY6P$_WiAX4yTIQqcDED$JBSJdPn3<sJJjE+LkT$B?$L(vo=g#bV_"
    "03{lM61_3^kfzS?NgZ<p;tyvM)Pkp7?(ex(RETyrP=mWrq64IU5FS3=5>eq@9u9wr9G>h+J&gDCg?nd1(}UnHd7?LkAii%?an;6q"
    "I*YE%Kz#9Pq6h%sz!3>YmMFqinnLs?iYB7aXweU#NTiVdvB>bcO$$b%rk#LOGRegmUStGb8<8n7YGxS8<SZ-$17HxC@bc>1_Jo)i"
    "*vBd;X?&^=E5Uf=d(E{=?g|}SqMBK|%|n(IJ8O@AyJbPD4)+$DU|&gRVg>^^>I18A2d|?8O~b(ZD5ciUC)>NFUOfdlKGzuOp1yl@"
    "y%zTFG^sSN4bZItVV8hAV1ledvMp-xLM?N8v5mj=`-dTZWb9D!mC+PVe3)CZx9|Ls;706b9o&L`a@x{;hsm`Tacx18_G^@m^%Zq*"
    "=ss#H8@c0FBPse7Z#_=Q&hfUPHJf4P5FK+-)*cVsgpK3+LYt-wwh2)?&!@K5_^&hL9UNNhq|RxUmTr#S9S!X2aDoNWCcI7+<@0`;"
    "vd5kVzX%OwwJS!}#>m7Y;(7x$*QjQnJ=YLEQKFpW@>A4f)~$IKCL8G7Ic`)3+F(yI-|K_)@d1S8sQQ%_PS8Dst<Q>b!%at4Up#2H"
    "dDWK7AA^(j-am<)_zNY3{aq!beNlq-S1187L#%|p|79i2B$9|!(FCR6OJe$@Bu>KlKCvdO#F~h34+o%`4*<p|ua3+QS!d~xDO;m4"
    "em$&2p+Da{1(t*t7M4Wj6Jk5-k}@m_i_ugB?G}6IwYah7z)49gt#8!IQJr6?-$&cm%49IDccv4^y)9L97^ISNp|6zh^^X->e5xHU"
    "2aG)Q%%aIt<SV;+%i3^!eYPIHIcU7+sp7n1D|F|z%>MZ23qs~p=3lMU;wT2S7tEp1Zxy_j^|@Q86M(zPB^o$sw4AEUt<#WR6=yKE"
    "RK={kufHq};g}U?o8A=_K5eFo>`{HEodJ<_?AB^OBo3VS_HPJWlpN$-OPSacFo&n`YzNB_DMM#BnB38Qi)IS9e$)^4ii}0a8)SN&"
    "Us>f{SJLM#-(YrwYc%uua0+AbZs7Rt(=nqVkn%IJQZrG{tRqpNe%s=gf`xR|*_F0b!o&~tsT?Hbo6!$F`cD6!(oZGRkW<hP)qSQP"
    "s+gpoy<fgTH|0%kZXZ1gS9)1^yuE=jen2t9;^DR0R(VxCX8SIq)bfof!m!4~M^@NvvrEq``T4BU*@ktDu|huhz%CPBPi!3q!v$be"
    "ld8{>W{jzp3B20tN^@(vPRgrEKP`7|4l4~OxSlfA{uDZ5{Xm`d<kg{vT|>oE;cc6L^v{V7I&v<^_;Nyz+(`PB5Nr9CtErtwtP%_a"
    "iv9cQh3P97->0h2va7QAgjS?_7)KO5$k}23qL40a!$ab~9dU)<iJQuAp{a-~7ZaB^N!)unO+XepmyN03Ndf{p*>iFw_0^F8V29U4"
    "&TP+X(<-niY#IR01Gw8gTSi!N?KO!ieFbZmZK?do?@*U-R;4*y8M%Q24R|AgZjtOp&=Uwo9#PLd&dcmEa%`S=Lx<BsFyTnvpeV45"
    "53ereszF*dCn_@eS`#%IFP~jplfNd$a@DEb%hJs<<7YHIJwuA2HN{z749zzmm@k=;bbCV?zi#;1@-4)hb-yAg$c(>$?EK$_EdL8+"
    "V_yTAj2N=P|0c-P#P??)hKwbKj5C$3q5gSySN=V1Gd|N61~(95+(!P*BkyP?mk_Q0&ISONww&2!%sT+oJOSNZ?FWPJz0(=G85pjv"
    "$A~B{*}r0NT<~}%)DeXZWkSkj%6AP<hY4B$2qOtwB+#BY^Fnr&lc`bj>?I+&n>N=1>Br{QSI0>VXR#1%7;`7ri-E^Ab#wXLw2^qH"
    "7*-Is3bT2jNsoc%CcXQ0uko%uKjkiZlP^~%1y23=jJVIaE$F3&ft7>4p0xRjglEU(smX8Gt0bOUrCn-3(NT-DzRG`>+q;Reej;Kb"
    "H7is*jccalRpoF`D|}`^_F$vi<0xUon8KL#M?+I2?c14R&Hs%lel@RuYKjeFN+12}Lnyz0BK!DOu5MP@Qpudz>tRSY)I6>dL8>C8"
    ">)i+`4acMd7}9`Xj`wWIcFk=5Sfrs<diLp8du0#N_r=G?Ji<>H@>J(A1sQ1RmoCdBQi3{r)pUx|wU=yCvA{KBHIptnZL40AA*5)%"
    "?tW2gV9Q(Po5b(VI-MeLYci2q>A6;CXt@8dbL943%8VVdtunQ5o=rDSmaDkD(ckzDt|I*;N#@88MZ~C${*bX9x0-`=`F1Xu`Q0V|"
    "BbS7xa!Kf}n7_2o{KZs9fRccsa<DB1fV4p%G!`7H=ah9E{p9HL8r;2CfJ;U<b<Q}rKT})6zsdK~-bzgTxavm_#(V;MFZv~R?}YtA"
    "|629Y>V?sWJJ#KWP_=RMIrNLMlZ*E!mv>8Hs$CMI#``RFSvqN|yjO8mI(E<3vI`f@=UBv^SvNO`eL`Vf(Q?U-fNe-@7j<>hew3ee"
    "9x(EDdF$c%p+42Q(52ONNjWn4+j-lk@7^{QWmEpaMvB?uec6F|5!e=?G5{Z7bK??X!8;pHnF~v4dcxp{BLLoVulGD<GI)*@dPJi+"
    "^PC%d#;e?ph_OI2zNZBndX1gWct00>=&3z|%FdYFdrMGns?*PaZu{Q2$9nyDlrA-O*;+XKGPJc~?c7txW#p?KBvflH7!1$m>2I=2"
    "9QVXjFbM1gQfJgU{3`i*q)ICk))bvAGm^plaj9@i0+UlZf7epE#hwnfS1s<(^4R=Z!4I32u<O8u-r6Ob%sxmK?`K8(b#)5UFf_*7"
    "vM6xLOoG0<U(PSyD34%yz~7oE$qAg*Jh4q-Ik{fqH;>4QMg"
)
"""Made with pillow-heif: a length of two bytes and a file, eight times; packed by zlib."""


def files() -> list[bytes]:
    """HEIC files of orientations 1 to 8; upright, all are red, green, blue, white from the top left."""
    data, found = zlib.decompress(base64.b85decode(_PACKED)), []
    while data:
        size = 2 + int.from_bytes(data[:2], "big")
        found.append(data[2:size])
        data = data[size:]
    return found
